// SPDX-License-Identifier: Apache-2.0
// OutsideHolders: which processes outside the tree have a pipe, FIFO or socket that the tree has too.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis {

struct OutsideHolder {
  HostPid pid;
  int fd = -1;
  bool reads = false;
  bool writes = false;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::string command;  // its name

  // "pid 12 (cat)"
  std::string to_string() const;
};

// Found by the names of descriptors (/proc/PID/fd), so processes that the caller may not look at are not seen. Our own
// process never counts: it holds duplicates.
class OutsideHolders {
 public:
  OutsideHolders() = default;
  // Adds what all processes but `tree` hold under these names. Costs some us per descriptor of the whole system.
  Result<void> scan(std::span<const HostPid> tree, const std::set<std::string>& links);
  // Adds the processes but `tree` that map shared what has one of these device and inode numbers and names.
  struct MappedFileName {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::string link;
    auto operator<=>(const MappedFileName&) const = default;
  };
  Result<void> scan_mappings(std::span<const HostPid> tree, const std::set<MappedFileName>& files);
  bool covers(const std::string& link) const { return covered_.contains(link); }
  bool covers(const MappedFileName& file) const { return covered_files_.contains(file); }
  // Those that turned out to belong to the tree are no outsiders.
  void forget(std::span<const HostPid> tree);
  std::span<const OutsideHolder> of(const std::string& link) const;
  // A holder that can read (write) what the tree writes (reads); null if none is known.
  const OutsideHolder* reader(const std::string& link) const;
  const OutsideHolder* writer(const std::string& link) const;
  // For tests: as if found by a scan.
  void add(const std::string& link, OutsideHolder holder);

 private:
  std::set<std::string> covered_;
  std::set<MappedFileName> covered_files_;
  std::map<std::string, std::vector<OutsideHolder>> holders_;
};

}  // namespace stasis
