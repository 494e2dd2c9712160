// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/vdso.h"

#include <elf.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "kernel/proc_dir.h"

namespace stasis::arch {
namespace {

// Part [offset, offset + size) of `bytes`, empty when it does not lie in them.
std::span<const std::byte> part(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t size) {
  if (offset > bytes.size() || size > bytes.size() - offset) return {};
  return bytes.subspan(offset, size);
}

template <class T>
bool load(std::span<const std::byte> bytes, std::uint64_t offset, T& value) {
  const auto source = part(bytes, offset, sizeof value);
  if (source.size() != sizeof value) return false;
  std::memcpy(&value, source.data(), sizeof value);
  return true;
}

std::uint64_t padded(std::uint64_t size) { return (size + 3) & ~std::uint64_t{3}; }

std::optional<std::vector<std::byte>> build_id_in_notes(std::span<const std::byte> notes) {
  Elf64_Nhdr note{};
  for (std::uint64_t at = 0; load(notes, at, note);) {
    const std::uint64_t name_at = at + sizeof note;
    const std::uint64_t id_at = name_at + padded(note.n_namesz);
    const auto name = part(notes, name_at, note.n_namesz);
    const auto id = part(notes, id_at, note.n_descsz);
    if (note.n_type == NT_GNU_BUILD_ID && name.size() == 4 && std::memcmp(name.data(), "GNU", 4) == 0 && !id.empty()) {
      return std::vector(id.begin(), id.end());
    }
    at = id_at + padded(note.n_descsz);
  }
  return std::nullopt;
}

bool elf_header(std::span<const std::byte> bytes, Elf64_Ehdr& header) {
  return load(bytes, 0, header) && std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
         header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_phentsize == sizeof(Elf64_Phdr);
}

}  // namespace

Result<std::optional<VdsoPlace>> find_vdso(const std::vector<kernel::Vma>& vmas) {
  const auto code =
      std::ranges::find_if(vmas, [](const kernel::Vma& vma) { return vma.kernel_special() && vma.path == "[vdso]"; });
  if (code == vmas.end()) return std::optional<VdsoPlace>();
  VdsoPlace place{.data_start = code->start, .start = code->start, .end = code->end};
  const auto is_data = [](const kernel::Vma& vma) { return vma.kernel_special() && vma.path.starts_with("[vvar"); };
  auto first = code;
  while (first != vmas.begin() && is_data(*std::prev(first)) && std::prev(first)->end == first->start) --first;
  place.data_start = first->start;
  const auto adjoining = code - first;
  if (std::ranges::count_if(vmas, is_data) != adjoining) {
    return Error(Errc::kUnsupportedMemory, fmt::format("the vdso at {:#x} lies apart from its data", place.start))
        .with_help("the program has moved it, and the kernel can't recreate it like that");
  }
  return std::optional(place);
}

Result<std::vector<std::byte>> read_vdso(const kernel::ProcessMemory& memory, const VdsoPlace& place) {
  std::vector<std::byte> bytes(place.end - place.start);
  STASIS_TRY(memory.read(place.start, bytes));
  return bytes;
}

Result<std::vector<std::byte>> own_vdso() {
  const kernel::ProcDir self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  const std::vector<kernel::Vma> vmas = STASIS_TRY(self.maps());
  const auto place = STASIS_TRY(find_vdso(vmas));
  if (!place) return std::vector<std::byte>();
  const auto* code = reinterpret_cast<const std::byte*>(place->start);  // NOLINT: our own memory
  return std::vector(code, code + (place->end - place->start));
}

std::optional<std::vector<std::byte>> vdso_build_id(std::span<const std::byte> vdso) {
  Elf64_Ehdr header{};
  if (!elf_header(vdso, header)) return std::nullopt;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    // e_phoff may be anything: the sum must not wrap.
    if (header.e_phoff > vdso.size() || !load(vdso, header.e_phoff + i * sizeof segment, segment)) break;
    if (segment.p_type != PT_NOTE) continue;
    if (auto id = build_id_in_notes(part(vdso, segment.p_offset, segment.p_filesz))) return id;
  }
  return std::nullopt;
}

std::optional<std::size_t> find_syscall_instruction(std::span<const std::byte> vdso) {
  Elf64_Ehdr header{};
  std::size_t begin = sizeof header;
  if (elf_header(vdso, header) && header.e_phoff <= vdso.size()) {
    begin = std::min<std::size_t>(vdso.size(), header.e_phoff + header.e_phnum * sizeof(Elf64_Phdr));
    // The text begins at the entry point where one is given; hash tables and strings before it are data.
    if (header.e_entry > begin && header.e_entry < vdso.size()) begin = header.e_entry;
  }
  constexpr std::byte kInstruction[] = {std::byte{0x0f}, std::byte{0x05}};
  if (begin > vdso.size()) return std::nullopt;
  const auto text = vdso.subspan(begin);
  const auto found = std::ranges::search(text, kInstruction);
  if (found.empty()) return std::nullopt;
  return begin + static_cast<std::size_t>(found.begin() - text.begin());
}

}  // namespace stasis::arch
