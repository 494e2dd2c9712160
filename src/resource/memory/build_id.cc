// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/build_id.h"

#include <elf.h>
#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "base/file.h"

namespace stasis {
namespace {

constexpr std::size_t kMaxNotes = std::size_t{1} << 16;
constexpr std::size_t kMaxProgramHeaders = 256;

template <class T>
bool read_at(int fd, std::uint64_t offset, std::span<T> out) {
  const auto bytes = std::as_writable_bytes(out);
  const auto got = pread_full(fd, bytes, static_cast<off_t>(offset));
  return got && *got == bytes.size();
}

std::size_t padded(std::size_t size) { return (size + 3) & ~std::size_t{3}; }

std::vector<std::byte> find_in_notes(std::span<const std::byte> notes) {
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    std::memcpy(&header, notes.data(), sizeof header);
    notes = notes.subspan(sizeof header);
    const std::size_t name = padded(header.n_namesz), description = padded(header.n_descsz);
    if (header.n_namesz > notes.size() || name > notes.size() || header.n_descsz > notes.size() - name) return {};
    const bool gnu = header.n_namesz == 4 && std::memcmp(notes.data(), "GNU", 4) == 0;
    if (gnu && header.n_type == NT_GNU_BUILD_ID) {
      const auto id = notes.subspan(name, header.n_descsz);
      return {id.begin(), id.end()};
    }
    notes = notes.subspan(std::min(notes.size(), name + description));
  }
  return {};
}

}  // namespace

std::vector<std::byte> read_build_id(int fd) {
  Elf64_Ehdr header{};
  if (!read_at(fd, 0, std::span(&header, 1)) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return {};
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr)) return {};
  std::vector<Elf64_Phdr> segments(std::min<std::size_t>(header.e_phnum, kMaxProgramHeaders));
  if (!read_at(fd, header.e_phoff, std::span(segments))) return {};
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNotes) continue;
    std::vector<std::byte> notes(segment.p_filesz);
    if (!read_at(fd, segment.p_offset, std::span(notes))) continue;
    if (auto id = find_in_notes(notes); !id.empty() && id.size() <= 64) return id;
  }
  return {};
}

}  // namespace stasis
