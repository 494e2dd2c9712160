// SPDX-License-Identifier: Apache-2.0
#include "image/zero_pages.h"

#include <algorithm>
#include <cstring>

#include "image/page_runs.h"

namespace stasis {
namespace {

Result<void> check(std::span<const PageRun> runs, std::uint64_t payload_size, std::uint64_t page_size) {
  std::uint64_t total = 0;
  for (const PageRun& run : runs) {
    if (run.start % page_size != 0 || run.length % page_size != 0 || run.length > payload_size - total) {
      return Error(Errc::kInvalidArgument, "chunk: runs and payload do not fit each other");
    }
    total += run.length;
  }
  if (total != payload_size) return Error(Errc::kInvalidArgument, "chunk: runs and payload do not fit each other");
  return {};
}

}  // namespace

// The first bytes decide for most pages; the rest is compared with itself, shifted by one, at memcmp's speed.
bool is_zero(std::span<const std::byte> bytes) {
  constexpr std::size_t kProbe = 64;
  const std::size_t probe = bytes.size() < kProbe ? bytes.size() : kProbe;
  for (std::size_t i = 0; i < probe; ++i) {
    if (bytes[i] != std::byte{0}) return false;
  }
  return bytes.size() <= kProbe || std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

Result<std::optional<PagesLeft>> drop_zero_pages(std::span<const PageRun> runs, std::span<const std::byte> payload,
                                                 std::uint64_t page_size) {
  STASIS_TRY(check(runs, payload.size(), page_size));
  std::optional<PagesLeft> left;
  std::size_t at = 0;
  // Appends one page, joined to the last run where it continues it.
  auto keep = [&](std::uint64_t start) {
    const auto page = payload.subspan(at, page_size);
    if (!left->runs.empty() && left->runs.back().start + left->runs.back().length == start) {
      left->runs.back().length += page_size;
    } else {
      left->runs.push_back({start, page_size});
    }
    left->payload.insert(left->payload.end(), page.begin(), page.end());
  };
  // The first zero page turns on copying, with everything before it.
  auto start_copying = [&](std::size_t run_index, std::uint64_t run_done) {
    left.emplace();
    left->payload.reserve(payload.size());
    left->runs.assign(runs.begin(), runs.begin() + static_cast<std::ptrdiff_t>(run_index));
    if (run_done != 0) left->runs.push_back({runs[run_index].start, run_done});
    left->payload.assign(payload.begin(), payload.begin() + static_cast<std::ptrdiff_t>(at));
  };
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (std::uint64_t done = 0; done < runs[i].length; done += page_size, at += page_size) {
      if (is_zero(payload.subspan(at, page_size))) {
        if (!left) start_copying(i, done);
      } else if (left) {
        keep(runs[i].start + done);
      }
    }
  }
  return left;
}

std::size_t squeeze_zero_pages(std::vector<PageRun>& runs, std::span<std::byte> payload, std::uint64_t page_size) {
  std::vector<PageRun> left;
  std::size_t at = 0, kept = 0;
  for (const PageRun& run : runs) {
    for (std::uint64_t done = 0; done < run.length; done += page_size, at += page_size) {
      const auto page = payload.subspan(at, page_size);
      if (is_zero(page)) continue;
      if (kept != at) std::ranges::copy(page, payload.begin() + static_cast<std::ptrdiff_t>(kept));
      kept += page_size;
      append(left, {.start = run.start + done, .length = page_size});
    }
  }
  runs = std::move(left);
  return kept;
}

}  // namespace stasis
