// SPDX-License-Identifier: Apache-2.0
// A main for libFuzzer targets where there is no libFuzzer (g++): runs every file of the named directories, then a
// fixed number of mutations of them. Deterministic: the same seeds give the same inputs, so that a failure can be
// repeated.
//
//   fuzz_NAME [--mutations N] [--seed N] [--only N] FILE_OR_DIRECTORY...
//
// Before each input its number is kept; when the target crashes, the number is printed and --only N runs that one
// alone.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Input = std::vector<std::uint8_t>;

// Of the input being run, for the crash handler.
volatile std::sig_atomic_t current = -1;

void report_crash(int signal) {
  char text[96];
  const int n = std::snprintf(text, sizeof text, "fuzz: signal %d in input %d (repeat with --only %d)\n", signal,
                              static_cast<int>(current), static_cast<int>(current));
  if (n > 0) (void)!::write(STDERR_FILENO, text, static_cast<std::size_t>(n));
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

std::vector<Input> read_inputs(std::vector<std::string> paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::ranges::sort(files);
  std::vector<Input> inputs;
  for (const std::string& name : files) {
    std::ifstream file(name, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

// A few random edits: bits, numbers that make lengths interesting, cuts, copies, splices with another input.
class Mutator {
 public:
  explicit Mutator(std::uint32_t seed) : random_(seed) {}

  Input mutate(const std::vector<Input>& inputs) {
    Input input = inputs[below(inputs.size())];
    for (std::size_t edits = 1 + below(4); edits > 0; --edits) edit(input, inputs[below(inputs.size())]);
    return input;
  }

 private:
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  void edit(Input& input, const Input& other) {
    const std::size_t at = below(input.size() + 1);
    const auto here = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(7)) {
      case 0:
        if (at < input.size()) input[at] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 1:
        if (at < input.size()) input[at] = static_cast<std::uint8_t>(random_());
        break;
      case 2:
        overwrite_number(input, at);
        break;
      case 3:
        input.resize(at);
        break;
      case 4:
        input.erase(here, here + static_cast<std::ptrdiff_t>(std::min(1 + below(16), input.size() - at)));
        break;
      case 5:
        input.insert(here, 1 + below(16), static_cast<std::uint8_t>(random_()));
        break;
      default:
        splice(input, at, other);
    }
  }
  void overwrite_number(Input& input, std::size_t at) {
    static constexpr std::uint64_t kNumbers[] = {0,
                                                 1,
                                                 0xff,
                                                 0x7fff,
                                                 0xffff,
                                                 0x7fffffff,
                                                 0x80000000,
                                                 0xffffffff,
                                                 ~std::uint64_t{0},
                                                 0x1000,
                                                 1u << 26,
                                                 1u << 30,
                                                 std::uint64_t{1} << 63};
    const std::uint64_t number = kNumbers[below(std::size(kNumbers))] + below(3) - 1;
    const std::size_t width = std::size_t{1} << below(4);
    if (at + width <= input.size()) std::memcpy(input.data() + at, &number, width);
  }
  void splice(Input& input, std::size_t at, const Input& other) {
    const std::size_t from = below(other.size() + 1);
    const std::size_t count = std::min(below(256), other.size() - from);
    input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), other.begin() + static_cast<std::ptrdiff_t>(from),
                 other.begin() + static_cast<std::ptrdiff_t>(from + count));
  }

  std::mt19937 random_;
};

}  // namespace

int main(int argc, char** argv) {
  long mutations = 0;
  long only = -1;
  std::uint32_t seed = 1;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool has_value = i + 1 < argc;
    if (word == "--mutations" && has_value) {
      mutations = std::atol(argv[++i]);
    } else if (word == "--only" && has_value) {
      only = std::atol(argv[++i]);
    } else if (word == "--seed" && has_value) {
      seed = static_cast<std::uint32_t>(std::atol(argv[++i]));
    } else {
      paths.push_back(word);
    }
  }
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) ::signal(signal, report_crash);
  const std::vector<Input> inputs = read_inputs(paths);
  if (inputs.empty()) {
    std::fprintf(stderr, "fuzz: no inputs\n");
    return 2;
  }
  Mutator mutator(seed);
  const long total = static_cast<long>(inputs.size()) + mutations;
  for (long i = 0; i < total; ++i) {
    const bool from_corpus = i < static_cast<long>(inputs.size());
    const Input input = from_corpus ? inputs[static_cast<std::size_t>(i)] : mutator.mutate(inputs);
    if (only >= 0 && i != only) continue;
    current = static_cast<std::sig_atomic_t>(i);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("fuzz: %ld inputs of %zu files\n", total, inputs.size());
  return 0;
}
