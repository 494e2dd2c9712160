// SPDX-License-Identifier: Apache-2.0
// List: intrusive doubly linked list. The elements are the caller's own objects and hold the links themselves.
//
//   struct Work { int id; ListHook by_age; ListHook by_size; };      // as many hooks as lists it can be on at once
//   List<Work, &Work::by_age> queue;
//   queue.push_back(work);
//   for (Work& w : queue) use(w);
//   for (Work& w : queue.safe()) if (done(w)) queue.erase(w);        // erasing the current element is allowed
//   while (Work* w = queue.pop_front()) finish(*w);
//
// Ownership: none. The list neither makes nor frees elements; an element must be off the list before it dies or moves.
// Cost: no allocation, two pointers per hook. Everything is O(1) unless it says otherwise; erase needs the element
// alone, not its list (so there is no counter: count() walks).
// Threads: none of it is synchronised.
// An erased element is at once re-addable and is_linked() is false for it (the kernel's list_del_init; an element whose
// links are left dangling, as list_del does, does not exist here).
//
// With STASIS_DEBUG_LISTS defined (for the whole program), an erased hook holds a poison address instead of null,
// and adding an element that is on a list, erasing one that is not, walking on from an erased one, destroying a linked
// hook and using a stale head all stop the program with a message.
//
// The hook must be a non-static data member of T or of a non-virtual base of T.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>
#include <utility>

#ifdef STASIS_DEBUG_LISTS
#include <cstdio>
#include <cstdlib>
#endif

namespace stasis {

namespace detail {
struct ListAccess;

#ifdef STASIS_DEBUG_LISTS
inline constexpr bool kDebugLists = true;
[[noreturn]] inline void list_fault(const char* what) noexcept {
  std::fprintf(stderr, "stasis: list misuse: %s\n", what);
  std::abort();
}
// Addresses that no program maps; distinct, so that a fault address tells which link was followed.
template <class Link>
Link* poison(std::uintptr_t which) noexcept {
  return reinterpret_cast<Link*>(std::uintptr_t{0xdead'0000'0000'0100} + which * 0x22);
}
#else
inline constexpr bool kDebugLists = false;
#endif

inline void list_check([[maybe_unused]] bool ok, [[maybe_unused]] const char* what) noexcept {
#ifdef STASIS_DEBUG_LISTS
  if (!ok) list_fault(what);
#endif
}

// The object that holds `hook` as its member `Member`. A pointer to data member is the offset (Itanium C++ ABI).
template <class T, class Hook>
std::ptrdiff_t hook_offset(Hook T::* member) noexcept {
  static_assert(sizeof(member) == sizeof(std::ptrdiff_t));
  return std::bit_cast<std::ptrdiff_t>(member);
}
}  // namespace detail

// The link inside an element. Not copied with the element: a copy starts unlinked.
class ListHook {
 public:
  constexpr ListHook() = default;
  constexpr ListHook(const ListHook&) noexcept {}
  constexpr ListHook& operator=(const ListHook&) noexcept { return *this; }  // NOLINT(*-self-assignment): links stay
#ifdef STASIS_DEBUG_LISTS
  constexpr ~ListHook() {
    if (!std::is_constant_evaluated() && is_linked()) detail::list_fault("an element died while on a list");
  }
#endif

  // Is the element on a list through this hook?
  bool is_linked() const noexcept {
#ifdef STASIS_DEBUG_LISTS
    if (next_ == detail::poison<ListHook>(0)) return false;
#endif
    return next_ != nullptr;
  }

  // Takes the element off the list it is on. REQUIRES: is_linked().
  void unlink() noexcept {
    detail::list_check(is_linked(), "erase of an element that is on no list");
    detail::list_check(next_->prev_ == this && prev_->next_ == this, "erase found the list corrupted");
    next_->prev_ = prev_;
    prev_->next_ = next_;
    retire();
  }

 private:
  friend struct detail::ListAccess;

  void retire() noexcept {
#ifdef STASIS_DEBUG_LISTS
    next_ = detail::poison<ListHook>(0);
    prev_ = detail::poison<ListHook>(1);
#else
    next_ = nullptr;
    prev_ = nullptr;
#endif
  }

  ListHook* next_ = nullptr;
  ListHook* prev_ = nullptr;
};

namespace detail {
// Untyped chain surgery; the only code that touches a ListHook's links.
struct ListAccess {
  static ListHook*& next(ListHook& hook) noexcept { return hook.next_; }
  static ListHook*& prev(ListHook& hook) noexcept { return hook.prev_; }
  static void retire(ListHook& hook) noexcept { hook.retire(); }

  static ListHook* walk_next(const ListHook& hook) noexcept {
    list_check(hook.is_linked(), "walked on from an erased element");
    return hook.next_;
  }
  static ListHook* walk_prev(const ListHook& hook) noexcept {
    list_check(hook.is_linked(), "walked back from an erased element");
    return hook.prev_;
  }
  // Self-pointing head. constexpr, so that a static list needs no initialisation at run time.
  static constexpr void init_head(ListHook& head) noexcept {
    head.next_ = &head;
    head.prev_ = &head;
  }
  // A head that must be reset before it is used again.
  static void make_stale(ListHook& head) noexcept { head.retire(); }

  static void link_between(ListHook& hook, ListHook& before, ListHook& after) noexcept {
    list_check(!hook.is_linked(), "added an element that is on a list already");
    list_check(before.next_ == &after && after.prev_ == &before, "insertion found the list corrupted");
    hook.prev_ = &before;
    hook.next_ = &after;
    before.next_ = &hook;
    after.prev_ = &hook;
  }
  // Moves the chain first..last (both included, linked to each other) between two neighbours.
  static void chain_between(ListHook& first, ListHook& last, ListHook& before, ListHook& after) noexcept {
    first.prev_ = &before;
    before.next_ = &first;
    last.next_ = &after;
    after.prev_ = &last;
  }
  static void cut(ListHook& first, ListHook& last) noexcept {
    first.prev_->next_ = last.next_;
    last.next_->prev_ = first.prev_;
  }
  // `replacement` takes the place of `old`, which is left unlinked.
  static void replace(ListHook& old, ListHook& replacement) noexcept {
    list_check(old.is_linked() && !replacement.is_linked(), "replace needs a linked and an unlinked element");
    chain_between(replacement, replacement, *old.prev_, *old.next_);
    old.retire();
  }
};
}  // namespace detail

// Asks a splice to leave the other list's head stale (see List::splice_back).
struct LeaveStale {};
inline constexpr LeaveStale kLeaveStale{};

template <class T, auto Member>
  requires std::is_convertible_v<decltype(Member), ListHook T::*>
class List {
  using Access = detail::ListAccess;

  template <bool kConst, bool kReverse>
  class Iterator {
   public:
    using iterator_category = std::bidirectional_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using pointer = std::conditional_t<kConst, const T*, T*>;
    using reference = std::conditional_t<kConst, const T&, T&>;

    Iterator() = default;
    // An iterator converts to its const form.
    template <bool kOther>
      requires(kConst && !kOther)
    Iterator(const Iterator<kOther, kReverse>& other) noexcept : hook_(other.hook_) {}
    reference operator*() const noexcept { return *owner(hook_); }
    pointer operator->() const noexcept { return owner(hook_); }
    Iterator& operator++() noexcept {
      hook_ = kReverse ? Access::walk_prev(*hook_) : Access::walk_next(*hook_);
      return *this;
    }
    Iterator& operator--() noexcept {
      hook_ = kReverse ? Access::walk_next(*hook_) : Access::walk_prev(*hook_);
      return *this;
    }
    Iterator operator++(int) noexcept {
      Iterator old = *this;
      ++*this;
      return old;
    }
    Iterator operator--(int) noexcept {
      Iterator old = *this;
      --*this;
      return old;
    }
    friend bool operator==(const Iterator&, const Iterator&) = default;

   private:
    friend class List;
    friend class Iterator<true, kReverse>;
    explicit Iterator(ListHook* hook) noexcept : hook_(hook) {}
    ListHook* hook_ = nullptr;
  };

  // Range over a list whose iterator has read the next element before the loop body runs.
  template <bool kReverse>
  class SafeRange {
   public:
    class iterator {
     public:
      using value_type = T;
      using difference_type = std::ptrdiff_t;
      T& operator*() const noexcept { return *owner(hook_); }
      iterator& operator++() noexcept {
        hook_ = saved_;
        saved_ = step(hook_);
        return *this;
      }
      friend bool operator==(const iterator& it, const iterator& end) noexcept { return it.hook_ == end.hook_; }

     private:
      friend class SafeRange;
      explicit iterator(ListHook* hook) noexcept : hook_(hook), saved_(step(hook)) {}
      static ListHook* step(ListHook* hook) noexcept {
        return kReverse ? Access::walk_prev(*hook) : Access::walk_next(*hook);
      }
      ListHook* hook_;
      ListHook* saved_;
    };
    iterator begin() const noexcept { return iterator(iterator::step(head_)); }
    iterator end() const noexcept { return iterator(head_); }

   private:
    friend class List;
    explicit SafeRange(ListHook* head) noexcept : head_(head) {}
    ListHook* head_;
  };

 public:
  using value_type = T;
  using iterator = Iterator<false, false>;
  using const_iterator = Iterator<true, false>;
  using reverse_iterator = Iterator<false, true>;
  using const_reverse_iterator = Iterator<true, true>;

  // Empty; usable in constinit objects.
  constexpr List() noexcept { Access::init_head(head_); }
  // Unlinks whatever is left (O(n) then, nothing when empty), so that the elements can outlive their list.
  constexpr ~List() {
    if (std::is_constant_evaluated()) return;
    if (head_.is_linked()) clear();
    Access::retire(head_);
  }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  // Takes over the elements; `other` is left empty.
  List(List&& other) noexcept : List() { splice_back(other); }
  List& operator=(List&& other) noexcept {
    if (this != &other) {
      clear();
      splice_back(other);
    }
    return *this;
  }

  bool empty() const noexcept { return Access::walk_next(head_) == &head_; }
  // Exactly one element?
  bool is_singular() const noexcept { return !empty() && first() == last(); }
  // O(n).
  std::size_t count() const noexcept {
    std::size_t n = 0;
    for (const ListHook* hook = first(); hook != &head_; hook = Access::walk_next(*hook)) ++n;
    return n;
  }

  // Is `element` on a list through this hook? (On which one is not known.)
  static bool is_linked(const T& element) noexcept { return hook_of(element).is_linked(); }

  // REQUIRES: !empty().
  T& front() noexcept { return *owner(checked(first())); }
  const T& front() const noexcept { return *owner(checked(first())); }
  T& back() noexcept { return *owner(checked(last())); }
  const T& back() const noexcept { return *owner(checked(last())); }
  bool is_first(const T& element) const noexcept { return first() == &hook_of(element); }
  bool is_last(const T& element) const noexcept { return last() == &hook_of(element); }
  // Neighbour of an element of this list, null at the end.
  T* next_of(const T& element) const noexcept { return owner_or_null(Access::walk_next(hook_of(element))); }
  T* prev_of(const T& element) const noexcept { return owner_or_null(Access::walk_prev(hook_of(element))); }

  // All of these require `element` to be on no list through this hook.
  void push_front(T& element) noexcept { Access::link_between(hook_of(element), head_, *first()); }
  void push_back(T& element) noexcept { Access::link_between(hook_of(element), *last(), head_); }
  static void insert_before(T& position, T& element) noexcept {
    ListHook& at = hook_of(position);
    Access::link_between(hook_of(element), *Access::walk_prev(at), at);
  }
  static void insert_after(T& position, T& element) noexcept {
    ListHook& at = hook_of(position);
    Access::link_between(hook_of(element), at, *Access::walk_next(at));
  }
  // Before `position` (end() means at the back); returns the place of `element`.
  iterator insert(iterator position, T& element) noexcept {
    Access::link_between(hook_of(element), *Access::walk_prev(*position.hook_), *position.hook_);
    return iterator(&hook_of(element));
  }

  // Takes `element` off whichever list it is on. REQUIRES: is_linked(element).
  static void erase(T& element) noexcept { hook_of(element).unlink(); }
  // The place of the element after the erased one.
  iterator erase(iterator position) noexcept {
    iterator after(Access::walk_next(*position.hook_));
    position.hook_->unlink();
    return after;
  }
  // As erase, but an element that is on no list is left alone. Returns whether it was on one.
  static bool erase_if_linked(T& element) noexcept {
    if (!is_linked(element)) return false;
    erase(element);
    return true;
  }
  // Null when empty.
  T* pop_front() noexcept { return pop(first()); }
  T* pop_back() noexcept { return pop(last()); }
  // `replacement` (on no list) takes the place of `old`, which is then on none.
  static void replace(T& old, T& replacement) noexcept { Access::replace(hook_of(old), hook_of(replacement)); }
  // The two elements change places; they may be neighbours or on different lists. REQUIRES: both linked.
  static void swap_elements(T& a, T& b) noexcept {
    if (&a == &b) return;
    ListHook mark;
    Access::replace(hook_of(a), mark);
    Access::replace(hook_of(b), hook_of(a));
    Access::replace(mark, hook_of(b));
  }
  // Moves an element from the list it is on (this one or another) to an end of this one.
  void move_to_front(T& element) noexcept {
    erase(element);
    push_front(element);
  }
  void move_to_back(T& element) noexcept {
    erase(element);
    push_back(element);
  }
  // O(n): every element is left unlinked.
  void clear() noexcept {
    ListHook* hook = first();
    Access::init_head(head_);
    while (hook != &head_) {
      ListHook* next = Access::walk_next(*hook);
      Access::retire(*hook);
      hook = next;
    }
  }
  // O(n): takes off every element for which `pred` is true, then hands it to `dispose`, which may free it.
  template <class Pred, class Dispose>
  std::size_t remove_if(Pred pred, Dispose dispose) {
    std::size_t removed = 0;
    for (T& element : safe()) {
      if (!pred(std::as_const(element))) continue;
      erase(element);
      ++removed;
      dispose(element);
    }
    return removed;
  }

  // Moves all elements of `other` to an end of this list, or before `position`; `other` is left empty and usable.
  void splice_front(List& other) noexcept { splice_between(other, head_, *first()), Access::init_head(other.head_); }
  void splice_back(List& other) noexcept { splice_between(other, *last(), head_), Access::init_head(other.head_); }
  void splice(iterator position, List& other) noexcept {
    splice_between(other, *Access::walk_prev(*position.hook_), *position.hook_);
    Access::init_head(other.head_);
  }
  // The same without re-initialising: `other` may then only be reset(), assigned to or destroyed.
  void splice_front(List& other, LeaveStale) noexcept {
    splice_between(other, head_, *first());
    Access::make_stale(other.head_);
  }
  void splice_back(List& other, LeaveStale) noexcept {
    splice_between(other, *last(), head_);
    Access::make_stale(other.head_);
  }
  // Moves [from, to) of any list before `position`, which must not lie within it.
  void splice(iterator position, iterator from, iterator to) noexcept {
    if (from == to || position == to || position == from) return;
    ListHook& first_hook = *from.hook_;
    ListHook& last_hook = *Access::walk_prev(*to.hook_);
    Access::cut(first_hook, last_hook);
    Access::chain_between(first_hook, last_hook, *Access::walk_prev(*position.hook_), *position.hook_);
  }
  // Makes a list empty whatever its head holds, without touching the elements: for a head left stale.
  void reset() noexcept { Access::init_head(head_); }
  // Moves everything before `position` to the back of `into`.
  void cut_before(iterator position, List& into) noexcept { into.splice(into.end(), begin(), position); }
  void swap(List& other) noexcept {
    List mine(std::move(*this));
    splice_back(other);
    other.splice_back(mine);
  }

  // The first element becomes the last; nothing when empty.
  void rotate_left() noexcept {
    if (!empty()) move_to_back(front());
  }
  // The list is turned until `element`, one of its own, is the first.
  void rotate_to(T& element) noexcept {
    head_.unlink();
    Access::link_between(head_, *Access::walk_prev(hook_of(element)), hook_of(element));
  }
  // O(n).
  void reverse() noexcept {
    ListHook* hook = &head_;
    do {
      std::swap(Access::next(*hook), Access::prev(*hook));
      hook = Access::prev(*hook);
    } while (hook != &head_);
  }

  // Stable merge sort, O(n log n) comparisons, no memory beyond the stack. `less(a, b)`: must a stand before b?
  template <class Less>
  void sort(Less less) {
    merge_sort([&less](const T& earlier, const T& later) { return static_cast<bool>(less(later, earlier)); });
  }
  // The same with the kernel's kind of comparison: it always gets the element that stands earlier first, and a result
  // > 0 exchanges them (so a function that returns only 0 and 1 will do).
  template <class Compare>
  void sort_cmp(Compare compare) {
    merge_sort([&compare](const T& earlier, const T& later) { return compare(earlier, later) > 0; });
  }

  iterator begin() noexcept { return iterator(first()); }
  iterator end() noexcept { return iterator(&head_); }
  const_iterator begin() const noexcept { return const_iterator(first()); }
  const_iterator end() const noexcept { return const_iterator(head()); }
  reverse_iterator rbegin() noexcept { return reverse_iterator(last()); }
  reverse_iterator rend() noexcept { return reverse_iterator(&head_); }
  const_reverse_iterator rbegin() const noexcept { return const_reverse_iterator(last()); }
  const_reverse_iterator rend() const noexcept { return const_reverse_iterator(head()); }
  // The place of an element of this list.
  static iterator iterator_to(T& element) noexcept { return iterator(&hook_of(element)); }

  // For loops that erase (or move elsewhere, or free) the current element. Only that one: erasing the element after it,
  // or expecting one added behind the last to be visited, needs `while (T* x = list.pop_front())` instead.
  SafeRange<false> safe() noexcept { return SafeRange<false>(&head_); }
  SafeRange<true> safe_reverse() noexcept { return SafeRange<true>(&head_); }

 private:
  static ListHook& hook_of(T& element) noexcept { return element.*kMember; }
  static const ListHook& hook_of(const T& element) noexcept { return element.*kMember; }
  static T* owner(ListHook* hook) noexcept {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(hook) - detail::hook_offset(kMember));
  }
  static const T* owner(const ListHook* hook) noexcept { return owner(const_cast<ListHook*>(hook)); }
  T* owner_or_null(ListHook* hook) const noexcept { return hook == &head_ ? nullptr : owner(hook); }

  ListHook* first() const noexcept { return Access::walk_next(head_); }
  ListHook* last() const noexcept { return Access::walk_prev(head_); }
  ListHook* head() const noexcept { return const_cast<ListHook*>(&head_); }
  ListHook* checked(ListHook* hook) const noexcept {
    detail::list_check(hook != &head_, "front or back of an empty list");
    return hook;
  }
  T* pop(ListHook* hook) noexcept {
    if (hook == &head_) return nullptr;
    hook->unlink();
    return owner(hook);
  }
  static void splice_between(List& other, ListHook& before, ListHook& after) noexcept {
    if (other.empty()) return;
    Access::chain_between(*other.first(), *other.last(), before, after);
  }

  // Merges two null-terminated chains of `next` links behind `before`; at a tie `a`, whose elements stood earlier, goes
  // first. Returns the last element that it compared its way to; the chain may go on behind it.
  enum class Links { kNext, kBoth };
  template <Links kLinks, class Exchange>
  static ListHook* merge_behind(ListHook* before, Exchange& exchange, ListHook* a, ListHook* b) {
    const auto append = [&before](ListHook* hook) {
      Access::next(*before) = hook;
      if constexpr (kLinks == Links::kBoth) Access::prev(*hook) = before;
      before = hook;
    };
    for (;;) {
      if (exchange(*owner(a), *owner(b))) {
        append(b);
        b = Access::next(*b);
        if (b == nullptr) {
          Access::next(*before) = a;
          return before;
        }
        __builtin_prefetch(Access::next(*b));
      } else {
        append(a);
        a = Access::next(*a);
        if (a == nullptr) {
          Access::next(*before) = b;
          return before;
        }
        __builtin_prefetch(Access::next(*a));
      }
    }
  }
  template <class Exchange>
  static ListHook* merge(Exchange& exchange, ListHook* a, ListHook* b) {
    ListHook head;
    merge_behind<Links::kNext>(&head, exchange, a, b);
    ListHook* const merged = Access::next(head);
    Access::retire(head);
    return merged;
  }
  // Takes up to `limit` elements (a power of two) off the front of `input`; returns them sorted. Depth first, so that
  // a run is merged while it is still in cache.
  template <class Exchange>
  static ListHook* take_sorted(Exchange& exchange, ListHook*& input, std::size_t limit) {
    if (limit == 1) {
      ListHook* const one = input;
      input = Access::next(*one);
      Access::next(*one) = nullptr;
      return one;
    }
    ListHook* const earlier = take_sorted(exchange, input, limit / 2);
    if (input == nullptr) return earlier;
    return merge(exchange, earlier, take_sorted(exchange, input, limit / 2));
  }
  // The number of elements is not known, so the sorted part starts with one and takes in as many again each time.
  template <class Exchange>
  void merge_sort(Exchange exchange) {
    if (empty() || is_singular()) return;
    ListHook* input = first();
    Access::next(*last()) = nullptr;
    ListHook* sorted = take_sorted(exchange, input, 1);
    for (std::size_t size = 1;; size *= 2) {
      ListHook* const more = take_sorted(exchange, input, size);
      if (input == nullptr) return merge_into_head(exchange, sorted, more);
      sorted = merge(exchange, sorted, more);
    }
  }
  // The last merge, which sees every element, also restores the `prev` links and the circle.
  template <class Exchange>
  void merge_into_head(Exchange& exchange, ListHook* a, ListHook* b) {
    ListHook* before = merge_behind<Links::kBoth>(&head_, exchange, a, b);
    for (ListHook* hook = Access::next(*before); hook != nullptr; hook = Access::next(*hook)) {
      Access::prev(*hook) = before;
      before = hook;
    }
    Access::next(*before) = &head_;
    Access::prev(head_) = before;
  }

  static constexpr ListHook T::* kMember = Member;
  ListHook head_;
};

}  // namespace stasis
