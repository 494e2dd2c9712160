// SPDX-License-Identifier: Apache-2.0
#include "tracee/gadgets.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>

#include "arch/x86_64/thunk.h"

namespace stasis {
namespace {

constexpr std::size_t kSearchLimit = std::size_t{12} << 20;
constexpr std::size_t kWindow = std::size_t{256} << 10;

bool is_at(std::span<const std::byte> text, std::size_t offset, std::span<const std::byte> pattern) {
  return offset + pattern.size() <= text.size() && std::ranges::equal(text.subspan(offset, pattern.size()), pattern);
}

// Offsets of all system-call instructions, one after the other: memchr(3) for the rarer of its two bytes.
class SyscallFinder {
 public:
  explicit SyscallFinder(std::span<const std::byte> text) : text_(text) {}
  std::optional<std::size_t> next() {
    const auto insn = arch::syscall_return_pattern().first<arch::kSyscallInsnLength>();
    while (at_ + insn.size() <= text_.size()) {
      const void* const second =
          std::memchr(text_.data() + at_ + 1, static_cast<int>(insn.back()), text_.size() - at_ - 1);
      if (!second) break;
      const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(second) - text_.data()) - 1;
      at_ = offset + 1;
      if (text_[offset] == insn.front()) return offset;
    }
    return std::nullopt;
  }

 private:
  std::span<const std::byte> text_;
  std::size_t at_ = 0;
};

void search_window(std::span<const std::byte> window, std::uint64_t at, Gadgets& gadgets) {
  const auto with_return = arch::syscall_return_pattern(), restorer = arch::sigreturn_pattern();
  const std::size_t before = restorer.size() - arch::kSyscallInsnLength;
  SyscallFinder finder(window);
  while (const auto found = finder.next()) {
    if (!gadgets.syscall_return && is_at(window, *found, with_return)) gadgets.syscall_return = at + *found;
    if (!gadgets.restorer && *found >= before && is_at(window, *found - before, restorer)) {
      gadgets.restorer = at + *found - before;
    }
    if (gadgets.safe()) return;
  }
}

// Looks through one mapping; stops as soon as both sequences are known. Returns the bytes read.
std::size_t search_mapping(const kernel::ProcessMemory& memory, const kernel::Vma& vma, Gadgets& gadgets) {
  std::vector<std::byte> window;
  std::size_t read = 0;
  for (std::uint64_t at = vma.start; at < vma.end && !gadgets.safe(); at += kWindow) {
    constexpr std::size_t kOverlap = 16;  // a sequence may cross two windows
    window.resize(std::min<std::uint64_t>(kWindow + kOverlap, vma.end - at));
    if (!memory.read(at, window)) return read;
    read += window.size();
    search_window(window, at, gadgets);
  }
  return read;
}

// Where a sequence was found in a file. Where the same file is mapped by others, it is likely to be there again.
struct PlaceInFile {
  std::uint32_t dev_major = 0, dev_minor = 0;
  std::uint64_t inode = 0;
  std::uint64_t offset = 0;
  bool operator==(const PlaceInFile&) const = default;
};
struct KnownGadgets {
  PlaceInFile syscall_return, restorer;
  bool operator==(const KnownGadgets&) const = default;
};

// What was found in the programs so far. May be used by several threads at once.
class GadgetMemory {
 public:
  static GadgetMemory& instance() {
    static GadgetMemory memory;
    return memory;
  }
  // Found before, and seen to be there.
  std::optional<Gadgets> find(const kernel::ProcessMemory& memory, std::span<const kernel::Vma* const> vmas) {
    std::vector<KnownGadgets> all;
    {
      const std::lock_guard lock(mutex_);
      all = known_;
    }
    for (const KnownGadgets& known : all) {
      const Gadgets gadgets{.syscall_return = address_of(known.syscall_return, vmas),
                            .restorer = address_of(known.restorer, vmas)};
      if (gadgets.safe() && are_there(memory, gadgets)) return gadgets;
    }
    return std::nullopt;
  }
  void remember(const Gadgets& gadgets, std::span<const kernel::Vma* const> vmas) {
    constexpr std::size_t kMost = 64;
    const auto a = place_of(gadgets.syscall_return, vmas), b = place_of(gadgets.restorer, vmas);
    const std::lock_guard lock(mutex_);
    if (!a || !b || known_.size() >= kMost) return;
    const KnownGadgets found{.syscall_return = *a, .restorer = *b};
    if (std::ranges::find(known_, found) == known_.end()) known_.push_back(found);
  }

 private:
  static std::uint64_t address_of(const PlaceInFile& place, std::span<const kernel::Vma* const> vmas) {
    for (const kernel::Vma* const vma : vmas) {
      if (vma->inode != place.inode || vma->dev_major != place.dev_major || vma->dev_minor != place.dev_minor) continue;
      if (place.offset >= vma->offset && place.offset - vma->offset < vma->size())
        return vma->start + (place.offset - vma->offset);
    }
    return 0;
  }
  static std::optional<PlaceInFile> place_of(std::uint64_t address, std::span<const kernel::Vma* const> vmas) {
    for (const kernel::Vma* const vma : vmas) {
      if (!vma->contains(address)) continue;
      return PlaceInFile{.dev_major = vma->dev_major,
                         .dev_minor = vma->dev_minor,
                         .inode = vma->inode,
                         .offset = vma->offset + (address - vma->start)};
    }
    return std::nullopt;
  }
  static bool are_there(const kernel::ProcessMemory& memory, const Gadgets& gadgets) {
    const auto with_return = arch::syscall_return_pattern(), restorer = arch::sigreturn_pattern();
    const std::array ranges{kernel::RemoteRange{gadgets.syscall_return, with_return.size()},
                            kernel::RemoteRange{gadgets.restorer, restorer.size()}};
    std::vector<std::byte> bytes(with_return.size() + restorer.size());
    return memory.read(ranges, bytes) && is_at(bytes, 0, with_return) && is_at(bytes, with_return.size(), restorer);
  }

  std::mutex mutex_;
  std::vector<KnownGadgets> known_;
};

int rank(const kernel::Vma& vma) {
  const auto slash = vma.path.rfind('/');
  const std::string_view name =
      slash == std::string::npos ? std::string_view(vma.path) : std::string_view(vma.path).substr(slash + 1);
  if (name.starts_with("libc.so") || name.starts_with("libc-") || name.starts_with("ld-musl")) return 0;
  return 1;
}

}  // namespace

Gadgets find_gadgets(const kernel::ProcessMemory& memory, const std::vector<kernel::Vma>& vmas) {
  Gadgets gadgets;
  std::vector<const kernel::Vma*> candidates;
  for (const kernel::Vma& vma : vmas) {
    if (vma.executable() && vma.readable() && !vma.writable() && vma.file_backed()) candidates.push_back(&vma);
  }
  if (auto known = GadgetMemory::instance().find(memory, candidates)) {
    known->syscall = known->syscall_return;
    return *known;
  }
  std::ranges::stable_sort(candidates, {}, [](const kernel::Vma* vma) { return rank(*vma); });
  std::size_t searched = 0;
  for (const kernel::Vma* vma : candidates) {
    if (gadgets.safe() || searched >= kSearchLimit) break;
    searched += search_mapping(memory, *vma, gadgets);
  }
  gadgets.syscall = gadgets.syscall_return ? gadgets.syscall_return : gadgets.restorer ? gadgets.restorer + 7 : 0;
  if (gadgets.safe()) GadgetMemory::instance().remember(gadgets, candidates);
  if (gadgets.syscall) return gadgets;
  for (const kernel::Vma& vma : vmas) {  // no file mapping has one: the vdso always does
    if (vma.path != "[vdso]") continue;
    std::vector<std::byte> text(vma.size());
    if (!memory.read(vma.start, text)) break;
    constexpr std::size_t kBehindHeader = 0x300;
    if (text.size() <= kBehindHeader) break;
    SyscallFinder finder(std::span<const std::byte>(text).subspan(kBehindHeader));
    if (const auto found = finder.next()) gadgets.syscall = vma.start + kBehindHeader + *found;
  }
  return gadgets;
}

}  // namespace stasis
