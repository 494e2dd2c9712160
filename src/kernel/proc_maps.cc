// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_maps.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <limits>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

bool parse_permissions(std::string_view text, Vma& vma) {
  if (text.size() != 4) return false;
  constexpr std::array<char, 3> kLetters = {'r', 'w', 'x'};
  constexpr std::array<int, 3> kBits = {PROT_READ, PROT_WRITE, PROT_EXEC};
  for (std::size_t i = 0; i < kLetters.size(); ++i) {
    if (text[i] == kLetters[i]) {
      vma.prot |= kBits[i];
    } else if (text[i] != '-') {
      return false;
    }
  }
  vma.shared = text[3] == 's';
  return text[3] == 's' || text[3] == 'p';
}

// "start-end perms offset major:minor inode   path"
bool parse_header(std::string_view line, Vma& vma) {
  std::string_view range = text::take_word(line);
  std::string_view start;
  if (!text::take_until(range, '-', start)) return false;
  if (!text::number(start, vma.start, 16) || !text::number(range, vma.end, 16) || vma.start >= vma.end) return false;
  if (!parse_permissions(text::take_word(line), vma)) return false;
  if (!text::number(text::take_word(line), vma.offset, 16)) return false;
  std::string_view device = text::take_word(line);
  std::string_view major;
  if (!text::take_until(device, ':', major)) return false;
  if (!text::number(major, vma.dev_major, 16) || !text::number(device, vma.dev_minor, 16)) return false;
  if (!text::number(text::take_word(line), vma.inode)) return false;
  // One blank follows the inode, then padding; a path may itself end (not begin: paths begin with / or [) in blanks.
  const auto path = line.find_first_not_of(' ');
  if (path == std::string_view::npos) return true;
  line.remove_prefix(path);
  if (vma.file_backed() && line.ends_with(kDeleted)) {
    vma.deleted = true;
    line.remove_suffix(kDeleted.size());
  }
  vma.path = text::unescape(line);
  return true;
}

// Does the line start like an area ("hex-")? Keys of smaps start with a capital letter and have a colon first.
bool looks_like_header(std::string_view line) {
  const auto end = line.find_first_not_of("0123456789abcdef");
  return end != std::string_view::npos && end > 0 && line[end] == '-';
}

// "  12 kB" in bytes.
bool kilobytes(std::string_view value, std::uint64_t& bytes) {
  const std::string_view digits = text::take_word(value);
  std::uint64_t kib = 0;
  if (!text::number(digits, kib) || text::trim(value) != "kB") return false;
  if (kib > std::numeric_limits<std::uint64_t>::max() / 1024) return false;
  bytes = kib * 1024;
  return true;
}

bool parse_detail(std::string_view line, Vma& vma) {
  std::string_view key, value;
  if (!text::key_value(line, key, value)) return false;
  if (key == "VmFlags") {
    ParsedVmFlags parsed = parse_vm_flags(value);
    vma.flags = parsed.flags;
    vma.unknown_flags = std::move(parsed.unknown);
    return true;
  }
  if (key == "Rss") return kilobytes(value, vma.rss);
  if (key == "Swap") return kilobytes(value, vma.swap);
  if (key == "Shared_Clean" || key == "Shared_Dirty") {
    std::uint64_t bytes = 0;
    if (!kilobytes(value, bytes)) return false;
    vma.mapped_elsewhere += bytes;
    return true;
  }
  if (key == "Anonymous") return kilobytes(value, vma.anonymous);
  if (key == "AnonHugePages") return kilobytes(value, vma.anon_huge_pages);
  if (key == "Locked") return kilobytes(value, vma.locked);
  if (key == "KernelPageSize") return kilobytes(value, vma.kernel_page_size);
  if (key == "ProtectionKey") return text::number(value, vma.protection_key);
  return true;
}

Error bad(std::string_view file, std::string_view line) { return text::malformed(file, line); }

// Parses the line as an area and appends it.
Result<void> append_area(std::string_view file, std::string_view line, std::vector<Vma>& vmas) {
  Vma vma;
  if (!parse_header(line, vma)) return bad(file, line);
  if (!vmas.empty() && vma.start < vmas.back().end) {
    return Error(Errc::kBusy, std::string("areas changed while they were read from /proc/PID/").append(file))
        .with_help("try again");
  }
  vmas.push_back(std::move(vma));
  return {};
}

}  // namespace

bool Vma::readable() const { return (prot & PROT_READ) != 0; }
bool Vma::writable() const { return (prot & PROT_WRITE) != 0; }
bool Vma::executable() const { return (prot & PROT_EXEC) != 0; }

bool Vma::kernel_special() const {
  return inode == 0 && (path == "[vdso]" || path == "[vvar]" || path == "[vvar_vclock]" || path == "[vsyscall]" ||
                        path == "[uprobes]");
}

Result<std::vector<Vma>> parse_maps(std::string_view text) {
  std::vector<Vma> vmas;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    STASIS_TRY(append_area("maps", line, vmas));
  }
  return vmas;
}

Result<std::vector<Vma>> parse_smaps(std::string_view text) {
  std::vector<Vma> vmas;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    if (looks_like_header(line)) {
      STASIS_TRY(append_area("smaps", line, vmas));
      vmas.back().from_smaps = true;
    } else if (vmas.empty() || !parse_detail(line, vmas.back())) {
      return bad("smaps", line);
    }
  }
  return vmas;
}

bool same_layout(const std::vector<Vma>& a, const std::vector<Vma>& b) {
  return std::ranges::equal(a, b, [](const Vma& x, const Vma& y) {
    return x.start == y.start && x.end == y.end && x.prot == y.prot && x.shared == y.shared && x.offset == y.offset &&
           x.dev_major == y.dev_major && x.dev_minor == y.dev_minor && x.inode == y.inode && x.path == y.path &&
           x.deleted == y.deleted;
  });
}

const Vma* find_vma(const std::vector<Vma>& vmas, std::uint64_t address) {
  const auto after = std::ranges::upper_bound(vmas, address, {}, &Vma::start);
  if (after == vmas.begin()) return nullptr;
  const Vma& vma = *std::prev(after);
  return vma.contains(address) ? &vma : nullptr;
}

}  // namespace stasis::kernel
