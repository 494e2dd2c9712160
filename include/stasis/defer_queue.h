// SPDX-License-Identifier: Apache-2.0
// DeferQueue: puts work off until the end of an operation. UndoQueue: remembers how to roll an operation back.
//
//   DeferQueue later;
//   STASIS_TRY(later.add([id] { return remove_segment(id); }));     // what can't be done yet
//   ...
//   const std::size_t ran = STASIS_TRY(later.run());                // in the order added
//
//   UndoQueue undo;
//   STASIS_TRY(undo.add([&] { unmap(area); }));
//   STASIS_TRY(next_step());                                        // on failure the destructor of `undo` rolls back
//   undo.dismiss();                                                 // it all worked: forget the rest
//
// Why not a work queue: the work must be done at the end of the operation (not some time later) and in the caller's own
// thread. A callable may return void or Result<void> and may be move-only; it is built in place in the queue's arena,
// so no allocation is made per work. Memory is given back when a run ends, but for a few
// chunks that the next works use.
//
// Threads: not synchronised; a queue belongs to one operation or task.
// Exceptions: works must not throw (std::terminate). An exception from copying a callable into the queue passes through
// add(), which then has added nothing.
// Source: the deferqueue of checkpoint/restart v14-v20 for Linux; doc/deferred-work.md lists what differs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "stasis/result.h"

namespace stasis {

// What run() does about a work that returns an error.
enum class OnError {
  kRunAll,       // run the others too, then return the first error
  kStopAtFirst,  // return it at once; the works behind it stay pending
};

namespace detail {

class DeferredWorks {
 public:
  using Fn = Result<void> (*)(void* data);
  using Dtor = void (*)(void* data);

  DeferredWorks(const DeferredWorks&) = delete;
  DeferredWorks& operator=(const DeferredWorks&) = delete;

  // Number of works that wait.
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  // Is run() under way (are we called from a work)?
  bool running() const noexcept { return run_ != nullptr; }
  // Works run since the queue was made, those that failed included.
  std::uint64_t total_run() const noexcept { return total_run_; }

 protected:
  // Where run() keeps what must outlive the queue, as a work may destroy the queue it runs from.
  struct Run {
    DeferredWorks* queue;    // null once the queue is gone
    void* chunks = nullptr;  // left by a queue that is gone: the running work lies in them
    std::size_t ran = 0;
    std::optional<Error> first_error;
  };
  struct Work {
    Work* next;
    // Runs the work if `run` is given, and destroys it in any case.
    void (*finish)(Work& work, Run* run) noexcept;
  };
  struct Place {
    Work* work;
    void* payload;
  };
  enum class Order { kOldestFirst, kNewestFirst };

  static constexpr std::size_t kAlign = 16;
  static_assert(sizeof(Work) == kAlign);

  constexpr DeferredWorks() noexcept = default;
  DeferredWorks(DeferredWorks&& other) noexcept { take(other); }
  DeferredWorks& operator=(DeferredWorks&& other) noexcept;
  ~DeferredWorks() { release(); }

  Result<std::size_t> run_all(OnError on_error) noexcept;
  // Runs what is pending, from a destructor: also where run() is under way, which then reports for both.
  void run_rest() noexcept;
  void destroy_pending() noexcept;

  template <Order kOrder, class Callable>
  Result<void> add_callable(Callable&& callable) {
    using Stored = std::decay_t<Callable>;
    using Returned = std::invoke_result_t<Stored&>;
    static_assert(std::is_void_v<Returned> || std::is_same_v<Returned, Result<void>>,
                  "a deferred work returns void or Result<void>");
    const Place place = allocate(sizeof(Stored), alignof(Stored));
    if (place.work == nullptr) [[unlikely]]
      return no_memory(sizeof(Stored));
    ::new (place.payload) Stored(std::forward<Callable>(callable));
    place.work->finish = &finish_callable<Stored>;
    link<kOrder>(*place.work);
    return {};
  }
  template <Order kOrder>
  Result<void> add_raw(const void* data, std::size_t size, Fn function, Dtor dtor) {
    Work* const work = STASIS_TRY(copy_raw(data, size, function, dtor));
    link<kOrder>(*work);
    return {};
  }

 private:
  template <class Stored>
  static constexpr std::size_t payload_offset() {
    return alignof(Stored) <= kAlign ? sizeof(Work) : alignof(Stored);
  }
  template <class Stored>
  static void finish_callable(Work& work, Run* run) noexcept {
    Stored& stored =
        *std::launder(reinterpret_cast<Stored*>(reinterpret_cast<std::byte*>(&work) + payload_offset<Stored>()));
    if (run != nullptr) {
      if constexpr (std::is_void_v<std::invoke_result_t<Stored&>>) {
        std::invoke(stored);
      } else {
        Result<void> result = std::invoke(stored);
        if (!result) [[unlikely]]
          note_error(*run, std::move(result.error()));
      }
    }
    stored.~Stored();
  }
  // The first error of a run is the one that is kept.
  static void note_error(Run& run, Error&& error) noexcept;
  static void finish_raw(Work& work, Run* run) noexcept;

  // A header with room for a payload of that size and alignment behind it; {nullptr} without memory.
  Place allocate(std::size_t size, std::size_t align) noexcept {
    // An over-aligned payload stands one alignment behind its header, which is then aligned like it.
    const std::size_t offset = align <= kAlign ? sizeof(Work) : align;
    std::byte* at = bump_;
    if (align > kAlign) at += -reinterpret_cast<std::uintptr_t>(at) & (align - 1);
    if (at > end_ || size > static_cast<std::size_t>(end_ - at) || offset > static_cast<std::size_t>(end_ - at) - size)
        [[unlikely]] {
      at = open_chunk(size, align);
      if (at == nullptr) return {};
    }
    bump_ = at + ((offset + size + kAlign - 1) & ~(kAlign - 1));
    return {::new (at) Work, at + offset};
  }
  template <Order kOrder>
  void link(Work& work) noexcept {
    ++size_;
    if constexpr (kOrder == Order::kNewestFirst) {
      work.next = first_;
      first_ = &work;
    } else {
      work.next = nullptr;
      *(first_ == nullptr ? &first_ : &last_->next) = &work;
      last_ = &work;
    }
  }
  Result<Work*> copy_raw(const void* data, std::size_t size, Fn function, Dtor dtor);
  std::byte* open_chunk(std::size_t size, std::size_t align) noexcept;
  Error no_memory(std::size_t size) const;
  static void drain(Run& run, OnError on_error) noexcept;
  void take(DeferredWorks& other) noexcept;
  void release() noexcept;
  void rewind() noexcept;

  Work* first_ = nullptr;
  Work* last_ = nullptr;  // only with Order::kOldestFirst, and only while first_ is set
  std::byte* bump_ = nullptr;
  std::byte* end_ = nullptr;
  std::size_t size_ = 0;
  void* chunks_ = nullptr;  // those in use, the open one first
  void* spare_ = nullptr;   // kept from earlier rounds
  std::size_t arena_bytes_ = 0;
  Run* run_ = nullptr;
  std::uint64_t total_run_ = 0;
};

}  // namespace detail

// Runs works in the order in which they were added. Destroying it destroys, without running them, only the works that
// did not run.
class DeferQueue : public detail::DeferredWorks {
 public:
  DeferQueue() = default;
  // Moving takes the pending works along; moved from a work, the run goes on with the new queue.
  DeferQueue(DeferQueue&&) noexcept = default;
  DeferQueue& operator=(DeferQueue&&) noexcept = default;
  // Legal from one of its own works: the pending ones are destroyed and the run ends after the current one.
  ~DeferQueue() = default;

  // Adds a callable, built in place from `callable`; it is destroyed as soon as it has run. Fails only without memory.
  template <class Callable>
    requires std::is_invocable_v<std::decay_t<Callable>&>
  Result<void> add(Callable&& callable) {
    return add_callable<Order::kOldestFirst>(std::forward<Callable>(callable));
  }
  // C style: `function` gets a copy (16-aligned) of the `size` bytes at `data`. Exactly one of `function` and `dtor`
  // will be called: `dtor`, which may be null, if the work never ran. kInvalidArgument: no function, or size without
  // data.
  Result<void> add(const void* data, std::size_t size, Fn function, Dtor dtor) {
    return add_raw<Order::kOldestFirst>(data, size, function, dtor);
  }

  // Runs all works, those that works add meanwhile (the last one too) included. Returns how many ran, or the first
  // error as `on_error` says. A work is off the queue before it is called. kNested when called from a work.
  Result<std::size_t> run(OnError on_error = OnError::kRunAll) noexcept { return run_all(on_error); }
  // Destroys the pending works without running them. From a work: the others; that one goes on.
  void clear() noexcept { destroy_pending(); }
};

// Runs works in reverse order: the newest first, a work added by a work next. Unless dismissed it runs what is left
// when it is destroyed (call run() to see the errors).
class UndoQueue : public detail::DeferredWorks {
 public:
  UndoQueue() = default;
  UndoQueue(UndoQueue&&) noexcept = default;
  // Rolls back first what this queue held.
  UndoQueue& operator=(UndoQueue&& other) noexcept {
    if (this != &other) {
      run_rest();
      DeferredWorks::operator=(std::move(other));
    }
    return *this;
  }
  ~UndoQueue() { run_rest(); }

  // As DeferQueue::add.
  template <class Callable>
    requires std::is_invocable_v<std::decay_t<Callable>&>
  Result<void> add(Callable&& callable) {
    return add_callable<Order::kNewestFirst>(std::forward<Callable>(callable));
  }
  Result<void> add(const void* data, std::size_t size, Fn function, Dtor dtor) {
    return add_raw<Order::kNewestFirst>(data, size, function, dtor);
  }
  // Rolls back now. As DeferQueue::run, newest first.
  Result<std::size_t> run(OnError on_error = OnError::kRunAll) noexcept { return run_all(on_error); }
  // The operation succeeded: destroys the pending works without running them.
  void dismiss() noexcept { destroy_pending(); }
};

}  // namespace stasis
