// SPDX-License-Identifier: Apache-2.0
// The arena behind DeferQueue: chunks of 4 KiB, then 64 KiB, then (past 1 MiB) 2 MiB on huge pages, each filled from
// its start. Small first, because a cold huge page costs 100 us and most queues hold a handful of works; nothing is
// freed per work, only when a run ends.
#include "stasis/defer_queue.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <string>

#include "base/huge_memory.h"

namespace stasis::detail {
namespace {

constexpr std::size_t kFirstChunk = 4096;
constexpr std::size_t kMiddleChunk = std::size_t{64} << 10;
// Bytes held before chunks become huge.
constexpr std::size_t kHugeFrom = std::size_t{1} << 20;
// What an idle queue keeps at most, so that the next round needs no allocation.
constexpr std::size_t kKeep = std::size_t{256} << 10;
// Larger than any address space; keeps sums of sizes from overflowing.
constexpr std::size_t kMaxPayload = std::size_t{1} << 46;

enum class Source : std::uint32_t { kHeap, kHugePages };

struct alignas(16) Chunk {
  Chunk* next;
  std::size_t size;  // this header included
  Source source;

  std::byte* begin() { return reinterpret_cast<std::byte*>(this + 1); }
  std::byte* end() { return reinterpret_cast<std::byte*>(this) + size; }
};

Chunk* new_chunk(std::size_t size, Source source) noexcept {
  void* const memory = source == Source::kHugePages ? map_huge(size) : ::operator new(size, std::nothrow);
  return memory == nullptr ? nullptr : ::new (memory) Chunk{nullptr, size, source};
}

void free_chunks(void* chunks) noexcept {
  for (auto* chunk = static_cast<Chunk*>(chunks); chunk != nullptr;) {
    Chunk* const next = chunk->next;
    if (chunk->source == Source::kHugePages) {
      unmap_huge(chunk, chunk->size);
    } else {
      ::operator delete(chunk);
    }
    chunk = next;
  }
}

std::byte* align_up(std::byte* at, std::size_t align) {
  return at + (-reinterpret_cast<std::uintptr_t>(at) & (align - 1));
}

struct RawPayload {
  DeferQueue::Fn function;
  DeferQueue::Dtor dtor;
};
static_assert(sizeof(RawPayload) == 16, "the data behind it must be 16-aligned");

}  // namespace

// Makes a spare or a new chunk the open one; returns where a header may stand so that it and its payload fit.
std::byte* DeferredWorks::open_chunk(std::size_t size, std::size_t align) noexcept {
  if (size > kMaxPayload) return nullptr;
  const std::size_t for_alignment = align <= kAlign ? 0 : 2 * align;
  const std::size_t needed = sizeof(Chunk) + for_alignment + sizeof(Work) + size + kAlign;
  auto* chunk = static_cast<Chunk*>(spare_);
  if (chunk != nullptr && chunk->size >= needed) {
    spare_ = chunk->next;
  } else {
    const std::size_t usual = arena_bytes_ == 0 ? kFirstChunk : arena_bytes_ < kHugeFrom ? kMiddleChunk : kHugePage;
    const bool oversized = needed > usual;
    chunk =
        new_chunk(oversized ? needed : usual, !oversized && usual == kHugePage ? Source::kHugePages : Source::kHeap);
    if (chunk == nullptr) return nullptr;
    arena_bytes_ += chunk->size;
  }
  chunk->next = static_cast<Chunk*>(chunks_);
  chunks_ = chunk;
  end_ = chunk->end();
  return align <= kAlign ? chunk->begin() : align_up(chunk->begin(), align);
}

Error DeferredWorks::no_memory(std::size_t size) const {
  return Error(Errc::kNoMemory, "no memory for a deferred work of " + std::to_string(size) + " bytes");
}

Result<DeferredWorks::Work*> DeferredWorks::copy_raw(const void* data, std::size_t size, Fn function, Dtor dtor) {
  if (function == nullptr) return Error(Errc::kInvalidArgument, "a deferred work needs a function");
  if (data == nullptr && size != 0) return Error(Errc::kInvalidArgument, "a deferred work has a size but no data");
  if (size > kMaxPayload) return no_memory(size);
  const Place place = allocate(sizeof(RawPayload) + size, kAlign);
  if (place.work == nullptr) return no_memory(size);
  auto* const payload = ::new (place.payload) RawPayload{function, dtor};
  if (size != 0) std::memcpy(payload + 1, data, size);
  place.work->finish = &finish_raw;
  return place.work;
}

void DeferredWorks::finish_raw(Work& work, Run* run) noexcept {
  auto* const payload = std::launder(reinterpret_cast<RawPayload*>(&work + 1));
  if (run == nullptr) {
    if (payload->dtor != nullptr) payload->dtor(payload + 1);
    return;
  }
  Result<void> result = payload->function(payload + 1);
  if (!result) note_error(*run, std::move(result.error()));
}

void DeferredWorks::note_error(Run& run, Error&& error) noexcept {
  if (!run.first_error) run.first_error.emplace(std::move(error));
}

// A work may destroy or move the queue: run.queue says where it is.
void DeferredWorks::drain(Run& run, OnError on_error) noexcept {
  while (run.queue != nullptr && run.queue->first_ != nullptr) {
    DeferredWorks& queue = *run.queue;
    Work& work = *queue.first_;
    queue.first_ = work.next;
    --queue.size_;
    ++queue.total_run_;
    ++run.ran;
    work.finish(work, &run);
    if (on_error == OnError::kStopAtFirst && run.first_error) return;
  }
}

Result<std::size_t> DeferredWorks::run_all(OnError on_error) noexcept {
  if (run_ != nullptr) return Error(Errc::kNested, "a deferred work called run() of the queue that runs it");
  if (first_ == nullptr) return std::size_t{0};
  Run run{this, nullptr, 0, std::nullopt};
  run_ = &run;
  drain(run, on_error);
  if (run.queue == nullptr) {
    free_chunks(run.chunks);
  } else {
    run.queue->run_ = nullptr;
    if (run.queue->first_ == nullptr) run.queue->rewind();
  }
  if (run.first_error) return std::move(*run.first_error);
  return run.ran;
}

void DeferredWorks::run_rest() noexcept {
  if (run_ != nullptr) {
    drain(*run_, OnError::kRunAll);
  } else {
    (void)run_all(OnError::kRunAll);  // nobody to tell: who wants the errors calls run()
  }
}

void DeferredWorks::destroy_pending() noexcept {
  // One by one: what a destructor adds is destroyed too.
  while (first_ != nullptr) {
    Work& work = *first_;
    first_ = work.next;
    --size_;
    work.finish(work, nullptr);
  }
  if (run_ == nullptr) rewind();
}

// With no work left: the oldest chunks that make up kKeep become spares (smallest first), the others are given back.
void DeferredWorks::rewind() noexcept {
  bump_ = end_ = nullptr;
  auto* chunk = static_cast<Chunk*>(std::exchange(chunks_, nullptr));
  while (chunk != nullptr) {
    Chunk* const older = chunk->next;
    if (arena_bytes_ > kKeep) {
      arena_bytes_ -= chunk->size;
      chunk->next = nullptr;
      free_chunks(chunk);
    } else {
      chunk->next = static_cast<Chunk*>(spare_);
      spare_ = chunk;
    }
    chunk = older;
  }
}

void DeferredWorks::take(DeferredWorks& other) noexcept {
  first_ = std::exchange(other.first_, nullptr);
  last_ = std::exchange(other.last_, nullptr);
  bump_ = std::exchange(other.bump_, nullptr);
  end_ = std::exchange(other.end_, nullptr);
  size_ = std::exchange(other.size_, 0);
  chunks_ = std::exchange(other.chunks_, nullptr);
  spare_ = std::exchange(other.spare_, nullptr);
  arena_bytes_ = std::exchange(other.arena_bytes_, 0);
  total_run_ = std::exchange(other.total_run_, 0);
  run_ = std::exchange(other.run_, nullptr);
  if (run_ != nullptr) run_->queue = this;
}

DeferredWorks& DeferredWorks::operator=(DeferredWorks&& other) noexcept {
  if (this != &other) {
    release();
    take(other);
  }
  return *this;
}

// Destroys what is pending and gives up the arena; take() or the end of the object must follow.
void DeferredWorks::release() noexcept {
  destroy_pending();
  free_chunks(spare_);
  if (run_ == nullptr) return;
  run_->queue = nullptr;
  run_->chunks = chunks_;
}

}  // namespace stasis::detail
