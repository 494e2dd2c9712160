// SPDX-License-Identifier: Apache-2.0
// Records of an address space. The pages themselves travel in chunks that name the address space's objref.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "kernel/vm_flags.h"
#include "stasis/image.h"
#include "stasis/image_schema.h"

namespace stasis {

// A file that is mapped, or executed. Identity is checked at restart.
struct MappedFileRecord {
  std::string path;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  bool writable = false;            // mapped shared and writable: opened read-write
  std::vector<std::byte> build_id;  // of an ELF file, empty if it has none; then size and mtime must be equal

  static constexpr auto fields() {
    using R = MappedFileRecord;
    return std::tuple{field<1>("path", &R::path, MaxLength{4096}),
                      field<2>("device", &R::device, Show::kHex),
                      field<3>("inode", &R::inode),
                      field<4>("size", &R::size),
                      field<5>("mtime_ns", &R::mtime_ns),
                      field<6>("writable", &R::writable),
                      field<7>("build_id", &R::build_id, MaxLength{64})};
  }
};

// What a VMA shows when its pages are not our own.
enum class VmaBacking : std::uint8_t { kAnonymous = 0, kFile = 1, kVdso = 2, kKernel = 3, kObject = 4 };
constexpr auto enum_names(VmaBacking) {
  return std::array{EnumName{VmaBacking::kAnonymous, "anonymous"}, EnumName{VmaBacking::kFile, "file"},
                    EnumName{VmaBacking::kVdso, "vdso"}, EnumName{VmaBacking::kKernel, "kernel"},
                    EnumName{VmaBacking::kObject, "object"}};
}

// A file without a path that is mapped: its contents are in the image.
struct MappedObjectRecord {
  ObjRef object;
  std::uint16_t kind = 0;  // kind::kSharedMemory or kind::kNamelessFile

  static constexpr auto fields() {
    return std::tuple{field<1>("object", &MappedObjectRecord::object), field<2>("kind", &MappedObjectRecord::kind)};
  }
};

struct VmaRecord {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint32_t prot = 0;  // PROT_*
  bool shared = false;
  VmaBacking backing = VmaBacking::kAnonymous;
  std::uint32_t file = 0;  // index into MemoryRecord::files, for kFile; into its objects, for kObject
  std::uint64_t offset = 0;
  std::uint64_t flags = 0;      // kernel::VmFlags
  std::string name;             // "[heap]", "[anon:x]"; informative but for [anon:...] and [stack]
  std::vector<PageRun> guards;  // MADV_GUARD_INSTALL
  std::uint64_t huge_page = 0;  // bytes, of private MAP_HUGETLB memory; else 0

  kernel::VmFlags vm_flags() const { return kernel::VmFlags::from_bits(flags); }
  std::uint64_t size() const { return end - start; }

  static constexpr auto fields() {
    using R = VmaRecord;
    return std::tuple{field<1>("start", &R::start, Show::kHex),
                      field<2>("end", &R::end, Show::kHex),
                      field<3>("prot", &R::prot),
                      field<4>("shared", &R::shared),
                      field<5>("backing", &R::backing),
                      field<6>("file", &R::file),
                      field<7>("offset", &R::offset, Show::kHex),
                      field<8>("flags", &R::flags, Show::kHex),
                      field<9>("name", &R::name, MaxLength{256}),
                      field<10>("guards", &R::guards),
                      field<11>("huge_page", &R::huge_page)};
  }
};

// The kernel's idea of where things are: struct prctl_mm_map without auxv and exe (include/uapi/linux/prctl.h).
struct MmLayout {
  std::uint64_t start_code = 0, end_code = 0, start_data = 0, end_data = 0, start_brk = 0, brk = 0, start_stack = 0,
                arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;

  static constexpr auto fields() {
    using R = MmLayout;
    return std::tuple{
        field<1>("start_code", &R::start_code, Show::kHex),   field<2>("end_code", &R::end_code, Show::kHex),
        field<3>("start_data", &R::start_data, Show::kHex),   field<4>("end_data", &R::end_data, Show::kHex),
        field<5>("start_brk", &R::start_brk, Show::kHex),     field<6>("brk", &R::brk, Show::kHex),
        field<7>("start_stack", &R::start_stack, Show::kHex), field<8>("arg_start", &R::arg_start, Show::kHex),
        field<9>("arg_end", &R::arg_end, Show::kHex),         field<10>("env_start", &R::env_start, Show::kHex),
        field<11>("env_end", &R::env_end, Show::kHex)};
  }
};

struct MemoryRecord {
  static constexpr RecordType kType = RecordType::kMemory;
  static constexpr std::string_view kName = "memory";

  MmLayout layout;
  std::vector<std::byte> auxv;
  std::uint32_t executable = 0;  // index into files
  std::uint64_t vdso = 0;        // lowest address of the vdso area ([vvar]), 0 if there is none
  std::vector<MappedFileRecord> files;
  std::vector<VmaRecord> vmas;
  std::uint64_t page_bytes = 0;  // in this image's chunks
  std::vector<MappedObjectRecord> objects;
  bool forked = false;  // a ForkedPagesRecord follows

  static constexpr auto fields() {
    using R = MemoryRecord;
    return std::tuple{field<1>("layout", &R::layout),         field<2>("auxv", &R::auxv, MaxLength{8192}),
                      field<3>("executable", &R::executable), field<4>("vdso", &R::vdso, Show::kHex),
                      field<5>("files", &R::files),           field<6>("vmas", &R::vmas),
                      field<7>("page_bytes", &R::page_bytes), field<8>("objects", &R::objects),
                      field<9>("forked", &R::forked)};
  }
};

// Pages that are those of the parent process at the same addresses (see forked_pages.h): they are in no chunk of this
// address space. A record of its own so that who does not know it refuses the image.
struct ForkedPagesRecord {
  static constexpr RecordType kType = RecordType::kForkedPages;
  static constexpr std::string_view kName = "forked_pages";

  // More are saved as the process's own.
  static constexpr std::uint32_t kMaxRuns = 1u << 18;

  ObjRef origin;               // the parent's address space; it stands before this one
  std::vector<PageRun> pages;  // ascending

  static constexpr auto fields() {
    return std::tuple{field<1>("origin", &ForkedPagesRecord::origin),
                      field<2>("pages", &ForkedPagesRecord::pages, MaxLength{kMaxRuns})};
  }
};

}  // namespace stasis
