// SPDX-License-Identifier: Apache-2.0
// HList: intrusive list whose head is one pointer, for tables with many heads; HashTable: a hash table made of them.
//
//   struct Inode { std::uint64_t number; HListHook by_number; };
//   struct NumberOf { std::uint64_t operator()(const Inode& inode) const { return inode.number; } };
//   HashTable<Inode, &Inode::by_number, NumberOf> table;
//   table.insert(inode);
//   if (Inode* found = table.find(42)) table.erase(*found);
//
// Like List (list.h), except: half the head, and hence no way to the last element nor backwards. Same ownership (none),
// same debug mode, same rule that an erased element is at once re-addable. Not synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "stasis/list.h"

namespace stasis {

// The link inside an element: the next one, and whichever pointer points here (a hook's or the head's).
class HListHook {
 public:
  constexpr HListHook() = default;
  constexpr HListHook(const HListHook&) noexcept {}
  constexpr HListHook& operator=(const HListHook&) noexcept { return *this; }  // NOLINT(*-self-assignment)
#ifdef STASIS_DEBUG_LISTS
  constexpr ~HListHook() {
    if (!std::is_constant_evaluated() && is_linked()) detail::list_fault("an element died while on a hash list");
  }
#endif

  bool is_linked() const noexcept {
#ifdef STASIS_DEBUG_LISTS
    if (next_ == detail::poison<HListHook>(2)) return false;
#endif
    return from_ != nullptr;
  }

  // Takes the element off the list it is on. REQUIRES: is_linked().
  void unlink() noexcept {
    detail::list_check(is_linked(), "erase of an element that is on no hash list");
    detail::list_check(*from_ == this, "erase found the hash list corrupted");
    *from_ = next_;
    if (next_ != nullptr) next_->from_ = from_;
#ifdef STASIS_DEBUG_LISTS
    next_ = detail::poison<HListHook>(2);
    from_ = detail::poison<HListHook*>(3);
#else
    next_ = nullptr;
    from_ = nullptr;
#endif
  }

 private:
  template <class T, auto Member>
    requires std::is_convertible_v<decltype(Member), HListHook T::*>
  friend class HList;

  void link(HListHook*& at) noexcept {
    detail::list_check(!is_linked(), "added an element that is on a hash list already");
    next_ = at;
    from_ = &at;
    if (next_ != nullptr) next_->from_ = &next_;
    at = this;
  }
  HListHook* walk_next() const noexcept {
    detail::list_check(is_linked(), "walked on from an erased element");
    return next_;
  }

  HListHook* next_ = nullptr;
  HListHook** from_ = nullptr;
};

template <class T, auto Member>
  requires std::is_convertible_v<decltype(Member), HListHook T::*>
class HList {
  template <bool kConst>
  class Iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using pointer = std::conditional_t<kConst, const T*, T*>;
    using reference = std::conditional_t<kConst, const T&, T&>;

    Iterator() = default;
    template <bool kOther>
      requires(kConst && !kOther)
    Iterator(const Iterator<kOther>& other) noexcept : hook_(other.hook_) {}
    reference operator*() const noexcept { return *owner(hook_); }
    pointer operator->() const noexcept { return owner(hook_); }
    Iterator& operator++() noexcept {
      hook_ = hook_->walk_next();
      return *this;
    }
    Iterator operator++(int) noexcept {
      Iterator old = *this;
      ++*this;
      return old;
    }
    friend bool operator==(const Iterator&, const Iterator&) = default;

   private:
    friend class HList;
    friend class Iterator<true>;
    explicit Iterator(HListHook* hook) noexcept : hook_(hook) {}
    HListHook* hook_ = nullptr;
  };

  class SafeRange {
   public:
    class iterator {
     public:
      using value_type = T;
      using difference_type = std::ptrdiff_t;
      T& operator*() const noexcept { return *owner(hook_); }
      iterator& operator++() noexcept {
        hook_ = saved_;
        saved_ = hook_ == nullptr ? nullptr : hook_->walk_next();
        return *this;
      }
      friend bool operator==(const iterator& it, const iterator& end) noexcept { return it.hook_ == end.hook_; }

     private:
      friend class SafeRange;
      explicit iterator(HListHook* hook) noexcept
          : hook_(hook), saved_(hook == nullptr ? nullptr : hook->walk_next()) {}
      HListHook* hook_;
      HListHook* saved_;
    };
    iterator begin() const noexcept { return iterator(first_); }
    iterator end() const noexcept { return iterator(nullptr); }

   private:
    friend class HList;
    explicit SafeRange(HListHook* first) noexcept : first_(first) {}
    HListHook* first_;
  };

 public:
  using value_type = T;
  using iterator = Iterator<false>;
  using const_iterator = Iterator<true>;

  constexpr HList() noexcept = default;
  // Unlinks whatever is left (O(n) then).
  constexpr ~HList() {
    if (!std::is_constant_evaluated()) clear();
  }
  HList(const HList&) = delete;
  HList& operator=(const HList&) = delete;
  // Takes over the elements; `other` is left empty.
  HList(HList&& other) noexcept { take(other); }
  HList& operator=(HList&& other) noexcept {
    if (this != &other) {
      clear();
      take(other);
    }
    return *this;
  }

  bool empty() const noexcept { return first_ == nullptr; }
  // O(n).
  std::size_t count() const noexcept {
    std::size_t n = 0;
    for (const HListHook* hook = first_; hook != nullptr; hook = hook->walk_next()) ++n;
    return n;
  }
  static bool is_linked(const T& element) noexcept { return hook_of(element).is_linked(); }
  // REQUIRES: !empty().
  T& front() noexcept { return *owner(first_); }
  const T& front() const noexcept { return *owner(first_); }
  // The element after `element`, null at the end.
  static T* next_of(const T& element) noexcept {
    HListHook* next = hook_of(element).walk_next();
    return next == nullptr ? nullptr : owner(next);
  }

  // All of these require `element` to be on no list through this hook.
  void push_front(T& element) noexcept { hook_of(element).link(first_); }
  static void insert_before(T& position, T& element) noexcept { hook_of(element).link(*hook_of(position).from_); }
  static void insert_after(T& position, T& element) noexcept { hook_of(element).link(hook_of(position).next_); }

  // Takes `element` off whichever list it is on. REQUIRES: is_linked(element).
  static void erase(T& element) noexcept { hook_of(element).unlink(); }
  // As erase, but an element that is on no list is left alone. Returns whether it was on one.
  static bool erase_if_linked(T& element) noexcept {
    if (!is_linked(element)) return false;
    erase(element);
    return true;
  }
  // Null when empty.
  T* pop_front() noexcept {
    if (first_ == nullptr) return nullptr;
    T* element = owner(first_);
    erase(*element);
    return element;
  }
  // O(n): every element is left unlinked.
  void clear() noexcept {
    while (pop_front() != nullptr) {
    }
  }

  iterator begin() noexcept { return iterator(first_); }
  iterator end() noexcept { return iterator(nullptr); }
  const_iterator begin() const noexcept { return const_iterator(first_); }
  const_iterator end() const noexcept { return const_iterator(nullptr); }
  // For loops that erase (or free) the current element, and only that one.
  SafeRange safe() noexcept { return SafeRange(first_); }

 private:
  static HListHook& hook_of(T& element) noexcept { return element.*kMember; }
  static const HListHook& hook_of(const T& element) noexcept { return element.*kMember; }
  static T* owner(HListHook* hook) noexcept {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(hook) - detail::hook_offset(kMember));
  }
  void take(HList& other) noexcept {
    first_ = std::exchange(other.first_, nullptr);
    if (first_ != nullptr) first_->from_ = &first_;
  }

  static constexpr HListHook T::* kMember = Member;
  HListHook* first_ = nullptr;
};

// Spreads any integer or pointer over all 64 bits; the table uses the upper ones.
struct SpreadHash {
  template <class Key>
  std::uint64_t operator()(const Key& key) const noexcept {
    std::uint64_t bits;
    if constexpr (std::is_pointer_v<Key>) {
      bits = reinterpret_cast<std::uintptr_t>(key);
    } else if constexpr (std::is_integral_v<Key> || std::is_enum_v<Key>) {
      bits = static_cast<std::uint64_t>(key);
    } else {
      bits = static_cast<std::uint64_t>(std::hash<Key>{}(key));
    }
    bits ^= bits >> 32;
    bits *= 0x9e37'79b9'7f4a'7c15;
    return bits ^ (bits >> 29);
  }
};

// Chained hash table of the caller's own objects, found by the key that `KeyOf` reads from them. Equal keys may stand
// in it several times; the newest is found first. It doubles when it holds as many elements as it has buckets; insert
// never fails: without memory the chains get longer instead. The keys are expected to be friendly (an attacker who
// chooses them can make the chains long; ObjHash is the one for keys from an image). Not synchronised. REQUIRES: an
// element's key does not change while it is in the table.
template <class T, auto Member, class KeyOf, class Hash = SpreadHash, class Equal = std::equal_to<>>
class HashTable {
  using Bucket = HList<T, Member>;

 public:
  using key_type = std::remove_cvref_t<std::invoke_result_t<const KeyOf&, const T&>>;

  // No memory is taken before the first insert.
  explicit HashTable(KeyOf key_of = {}, Hash hash = {}, Equal equal = {})
      : key_of_(std::move(key_of)), hash_(std::move(hash)), equal_(std::move(equal)) {}
  HashTable(const HashTable&) = delete;
  HashTable& operator=(const HashTable&) = delete;

  bool empty() const noexcept { return size_ == 0; }
  std::size_t size() const noexcept { return size_; }
  std::size_t bucket_count() const noexcept { return mask_ + 1; }

  // REQUIRES: `element` is in no table through this hook.
  void insert(T& element) {
    if (size_ > mask_) grow();
    bucket(key_of_(std::as_const(element))).push_front(element);
    ++size_;
  }
  // REQUIRES: `element` is in this table.
  void erase(T& element) noexcept {
    Bucket::erase(element);
    --size_;
  }
  // The newest element with that key, or null.
  T* find(const key_type& key) noexcept {
    for (T& element : bucket(key)) {
      if (equal_(key_of_(std::as_const(element)), key)) return &element;
    }
    return nullptr;
  }
  const T* find(const key_type& key) const noexcept { return const_cast<HashTable*>(this)->find(key); }
  // The next older element with the same key as `element`, or null.
  T* find_next(const T& element) noexcept {
    for (T* next = Bucket::next_of(element); next != nullptr; next = Bucket::next_of(*next)) {
      if (equal_(key_of_(std::as_const(*next)), key_of_(element))) return next;
    }
    return nullptr;
  }
  // Calls `visit(T&)` for every element, in no order; it may erase the element it is given, and no other.
  template <class Visit>
  void for_each(Visit visit) {
    for (std::size_t i = 0; i <= mask_; ++i) {
      for (T& element : buckets()[i].safe()) visit(element);
    }
  }
  // O(n): every element is left unlinked.
  void clear() noexcept {
    for (std::size_t i = 0; i <= mask_; ++i) buckets()[i].clear();
    size_ = 0;
  }

 private:
  static constexpr std::size_t kFirstSize = 16;

  Bucket* buckets() noexcept { return many_ ? many_.get() : &one_; }
  Bucket& bucket(const key_type& key) noexcept {
    const std::uint64_t high = static_cast<std::uint64_t>(hash_(key)) >> 32;
    return buckets()[static_cast<std::size_t>(high) & mask_];
  }
  void grow() {
    const std::size_t size = many_ ? (mask_ + 1) * 2 : kFirstSize;
    std::unique_ptr<Bucket[]> bigger(new (std::nothrow) Bucket[size]);
    if (!bigger) return;
    Bucket* const old = buckets();
    const std::size_t old_mask = std::exchange(mask_, size - 1);
    const std::unique_ptr<Bucket[]> keep = std::exchange(many_, std::move(bigger));
    for (std::size_t i = 0; i <= old_mask; ++i) {
      // Reversed on a side list first, so that the order of equal keys (newest first) survives the push_fronts.
      Bucket side;
      while (T* element = old[i].pop_front()) side.push_front(*element);
      while (T* element = side.pop_front()) bucket(key_of_(std::as_const(*element))).push_front(*element);
    }
  }

  [[no_unique_address]] KeyOf key_of_;
  [[no_unique_address]] Hash hash_;
  [[no_unique_address]] Equal equal_;
  Bucket one_;
  std::unique_ptr<Bucket[]> many_;
  std::size_t mask_ = 0;
  std::size_t size_ = 0;
};

}  // namespace stasis
