// SPDX-License-Identifier: Apache-2.0
// usage: flip_bytes IMAGE FIRST STEP
//
// Flips one bit of the bytes FIRST, FIRST + STEP, ... of an image, one after the other, and verifies each as `stasis
// verify` does: it must be refused. Prints how many bytes that were; ends with status 1 at the first that is taken for
// good. A crash says which byte it was by the file `flip_bytes.FIRST` in the working directory.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "image/verify.h"
#include "resource/object_table.h"

namespace stasis {
namespace {

bool is_refused(std::span<const std::byte> image, const RecordRegistry& known) {
  auto reader = ImageReader::from_bytes(image, ImageReader::Access::kFile, {.known = known});
  if (!reader) return true;
  if (auto parents = reader->open_parents("."); !parents) return true;
  return !verify_image(*reader, {.threads = 1, .known = known});
}

int flip(std::vector<std::byte>& image, std::size_t first, std::size_t step, const std::string& note) {
  const RecordRegistry known = resource_records();
  if (is_refused(image, known)) {
    std::fputs("the image is not good to begin with\n", stderr);
    return 1;
  }
  const int fd = ::open(note.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, sizeof(std::size_t)) != 0) return 1;
  void* const page = ::mmap(nullptr, sizeof(std::size_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return 1;
  auto& place = *static_cast<volatile std::size_t*>(page);  // outlives a crash
  std::size_t count = 0;
  unsigned bit = static_cast<unsigned>(first);
  for (std::size_t at = first; at < image.size(); at += step, ++count) {
    place = at;
    const std::byte before = image[at];
    bit = bit * 1103515245U + 12345U;
    image[at] ^= static_cast<std::byte>(1U << (bit >> 16 & 7));
    if (!is_refused(image, known)) {
      std::fprintf(stderr, "byte %zu of %zu flipped: taken for good\n", at, image.size());
      return 1;
    }
    image[at] = before;
  }
  ::unlink(note.c_str());
  std::printf("%zu bytes flipped\n", count);
  return 0;
}

}  // namespace
}  // namespace stasis

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: flip_bytes IMAGE FIRST STEP\n", stderr);
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const auto whole = std::as_bytes(std::span(bytes));
  std::vector<std::byte> image(whole.begin(), whole.end());
  return stasis::flip(image, std::strtoul(argv[2], nullptr, 10), std::strtoul(argv[3], nullptr, 10),
                      std::string("flip_bytes.") + argv[2]);
}
