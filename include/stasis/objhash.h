// SPDX-License-Identifier: Apache-2.0
// ObjHash: which shared objects were seen, and under what number. It is what saves each of them once.
//
// Checkpoint: the first encounter of an object gives it the next objref and writes its state, every later one yields
// the objref alone. Restart: each objref is restored once and then found by number.
//
//   ObjRef ref = STASIS_TRY(hash.checkpoint_obj(&context, file, kObjFile));   // first time: ops.checkpoint runs
//   write(ref);
//   ...
//   STASIS_TRY(hash.restore_obj(&context, ref, kObjFile));                    // ops.restore makes it
//   File* file = STASIS_TRY(hash.fetch<File>(ref, kObjFile));
//   ...
//   hash.clear();                          // before the restored tasks run: every reference is dropped
//   hash.free_later(give_to_worker);       // after: the memory
//
// Key: a pointer or any 64-bit number (the callbacks then get it as their `object`). One object has one objref and the
// reverse; both are searchable in either direction of travel. The keys and objrefs may come from a hostile image:
// hashing is seeded at random, and an objref far out costs no more memory than a near one. Ownership: the hash keeps
// one reference, taken by ops.grab or handed over by ops.restore, to every object in it, so an object found in it is
// alive. It is one-way: objects leave only by clear(). Threads: not synchronised; const calls may run in parallel.
// Callbacks may call the hash: grab, checkpoint and restore anything but clear(); drop may look things up only.
// Source: checkpoint/objhash.c of checkpoint/restart v16-v23 for Linux; doc/deferred-work.md lists what differs.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "stasis/objref.h"
#include "stasis/result.h"

namespace stasis {

// Objects that are numbered but neither referenced, saved nor restored; known to every ObjHash.
inline constexpr ObjType kObjIgnore = 0;

enum class LastRef : std::uint8_t {
  kNo,   // a grab is taken back, because the object could not be added: its owner still holds it
  kYes,  // the hash lets go of the object for good: at clear(), or when a restored object could not be added
};

// One row per type. A null entry does nothing (and succeeds). Errors are passed on to whoever called the hash.
struct ObjOps {
  ObjType type = kObjIgnore;
  const char* name = "";
  Result<void> (*grab)(void* object) = nullptr;
  void (*drop)(void* object, LastRef last) = nullptr;
  // Writes the object's state, once.
  Result<void> (*checkpoint)(void* context, ObjRef ref, void* object) = nullptr;
  // Makes the object; the reference it returns is the hash's. May return null: that objref then names a null object.
  Result<void*> (*restore)(void* context, ObjRef ref) = nullptr;
};

class ObjHash {
 public:
  struct Added {
    ObjRef ref;
    bool first;  // it was not in the hash before
  };
  // One object, as for_each shows it.
  struct Entry {
    ObjRef ref;
    ObjType type;
    std::uint64_t key;
    void* object() const noexcept { return to_object(key); }
  };

  // `ops`, best in order of type starting with 0 (then found without a search), must outlive the hash.
  explicit ObjHash(std::span<const ObjOps> ops) noexcept;
  // Clears, then frees.
  ~ObjHash();
  ObjHash(const ObjHash&) = delete;
  ObjHash& operator=(const ObjHash&) = delete;

  // Number of objects.
  std::size_t size() const noexcept { return size_; }

  // The objref of an object, ObjRef{} if it is not here. Errors: kTypeMismatch (here under another type),
  // kInvalidArgument (null pointer; unknown type).
  Result<ObjRef> lookup(const void* object, ObjType type) const {
    if (object == nullptr) [[unlikely]]
      return null_object();
    return lookup(to_key(object), type);
  }
  Result<ObjRef> lookup(std::uint64_t key, ObjType type) const {
    const Place place = find_key(key);
    if (place.line != nullptr) {
      if (place.type() == type) [[likely]]
        return place.ref();
    } else if (find_ops(type) != nullptr) [[likely]] {
      return ObjRef();
    }
    return lookup_error(place, type);
  }

  // The same, but an absent object is added: grabbed and given the next free objref (1, 2, 3...). A grab that fails
  // leaves everything as it was, no objref is spent. Errors: those of lookup and of grab, kNoMemory, kOverflow (no
  // objref is left), kBusy (called by a drop).
  Result<Added> lookup_add(void* object, ObjType type) {
    if (object == nullptr) [[unlikely]]
      return null_object();
    return lookup_add(to_key(object), type);
  }
  Result<Added> lookup_add(std::uint64_t key, ObjType type);

  // Adds an object under a given objref and grabs it. Errors: those of lookup_add; kExists: the objref or the object is
  // here already; kInvalidArgument: objref not positive.
  Result<void> insert(void* object, ObjRef ref, ObjType type) {
    if (object == nullptr) [[unlikely]]
      return null_object();
    return insert(to_key(object), ref, type);
  }
  Result<void> insert(std::uint64_t key, ObjRef ref, ObjType type);

  // The object of an objref; no reference is taken for the caller. Errors: kNotFound, kTypeMismatch.
  Result<void*> fetch(ObjRef ref, ObjType type) const {
    const Object* const object = find_object(ref);
    if (object != nullptr && object->type == type) [[likely]]
      return to_object(object->key);
    return fetch_error(object, ref, type);
  }
  template <class T>
  Result<T*> fetch(ObjRef ref, ObjType type) const {
    return static_cast<T*>(STASIS_TRY(fetch(ref, type)));
  }

  // The object of an objref, whatever its type.
  std::optional<Entry> find(ObjRef ref) const {
    const Object* const object = find_object(ref);
    if (object == nullptr) return std::nullopt;
    return Entry{.ref = ref, .type = object->type, .key = object->key};
  }

  // Sets an objref aside that lookup_add will not give out, for a later insert (or for nothing). Error: kOverflow.
  Result<ObjRef> reserve();

  // Checkpoint: lookup_add, then ops.checkpoint if it was the first encounter. The object is in the hash before it is
  // called, so that cycles end. If it fails, so does every later checkpoint_obj of that object: its state is not in the
  // image.
  Result<ObjRef> checkpoint_obj(void* context, void* object, ObjType type);

  // Restart: calls ops.restore and adds what it returns, without another grab. Everything that can be is checked first;
  // where adding still fails, the object is dropped, exactly once. Errors: those of insert and of restore.
  Result<ObjRef> restore_obj(void* context, ObjRef ref, ObjType type);

  // Calls `visit(const Entry&)` in objref order, objects added meanwhile with a higher objref included.
  template <class Visit>
  void for_each(Visit visit) const {
    Entry entry{};
    while (next_entry(entry)) visit(std::as_const(entry));
  }

  // Drops every reference in objref order while the table is whole (a drop may look up objects, also such that were
  // dropped before it), then empties the hash, which starts over at objref 1. Its memory is only set aside. Does
  // nothing to an empty hash, nor when called by a drop.
  void clear() noexcept;

  // Frees what clear() set aside; with a sink, hands it a std::move_only_function<void()> that does so, for a worker to
  // call. (One that is destroyed instead frees the memory too.)
  void free_later() noexcept;
  template <class Sink>
    requires std::is_invocable_v<Sink&&, std::move_only_function<void()>>
  void free_later(Sink&& sink) {
    if (detached_ != nullptr) (void)std::invoke(std::forward<Sink>(sink), detach());
  }

  // Makes room for that many objects at once. Only a hint: never needed. Error: kNoMemory.
  Result<void> expect(std::size_t objects);

 private:
  // Open addressing in lines of four slots, a cache line each, filled from the front; ref 0 marks a free slot, whose
  // key is 0. The halves of the keys lie apart, so that the lower ones can be compared in one instruction.
  struct alignas(64) Line {
    std::uint32_t low[4];
    std::uint32_t high[4];
    std::int32_t ref[4];
    struct {
      ObjType type;
      std::uint16_t flags;
    } about[4];
  };
  // Where a key is. Never leaves this class, as slots move.
  struct Place {
    Line* line;  // null: nowhere
    unsigned slot;
    ObjRef ref() const noexcept { return ObjRef(line->ref[slot]); }
    ObjType type() const noexcept { return line->about[slot].type; }
    std::uint16_t& flags() const noexcept { return line->about[slot].flags; }
  };
  // Indexed by objref. state 0: there is none.
  struct Object {
    std::uint64_t key;
    ObjType type;
    std::uint16_t state;
  };
  // Arrays and the far-out objrefs; what clear() detaches.
  struct Memory;
  struct MemoryDeleter {
    void operator()(Memory* memory) const noexcept;
  };
  using MemoryPtr = std::unique_ptr<Memory, MemoryDeleter>;

  static std::uint64_t to_key(const void* object) noexcept { return reinterpret_cast<std::uintptr_t>(object); }
  static void* to_object(std::uint64_t key) noexcept {
    return reinterpret_cast<void*>(static_cast<std::uintptr_t>(key));  // NOLINT(performance-no-int-to-ptr): it was one
  }
  static std::uint64_t hash(std::uint64_t key, std::uint64_t seed) noexcept {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(key ^ seed) * 0x9e37'79b9'7f4a'7c15;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  }
  // A bit for each slot of the line whose key has this lower half.
  static unsigned match_low(const Line& line, std::uint32_t low) noexcept {
#ifdef __SSE2__
    const __m128i equal = _mm_cmpeq_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(line.low)),
                                          _mm_set1_epi32(static_cast<int>(low)));
    return static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(equal)));
#else
    unsigned match = 0;
    for (unsigned i = 0; i < 4; ++i) match |= static_cast<unsigned>(line.low[i] == low) << i;
    return match;
#endif
  }
  // Which slot of a line holds the key can't be predicted, so that is found without a branch; that it is in the first
  // line can.
  Place find_key(std::uint64_t key) const noexcept {
    if (key == 0) [[unlikely]]
      return find_zero();
    const auto low = static_cast<std::uint32_t>(key), high = static_cast<std::uint32_t>(key >> 32);
    for (std::size_t i = hash(key, seed_) >> shift_;; i = (i + 1) & mask_) {
      Line& line = lines_[i];
      for (unsigned match = match_low(line, low); match != 0; match &= match - 1) {
        const auto slot = static_cast<unsigned>(std::countr_zero(match));
        if (line.high[slot] == high) [[likely]]
          return {&line, slot};
      }
      if (line.ref[3] == 0) return {nullptr, 0};
    }
  }
  const Object* find_object(ObjRef ref) const noexcept {
    const auto i = static_cast<std::uint32_t>(ref.value());
    if (i < dense_) [[likely]]
      return objects_[i].state != 0 ? &objects_[i] : nullptr;
    return find_sparse(ref);
  }
  const ObjOps* find_ops(ObjType type) const noexcept {
    if (type < ops_.size() && ops_[type].type == type) [[likely]]
      return &ops_[type];
    return search_ops(type);
  }

  static Error null_object();
  Error lookup_error(Place place, ObjType type) const;
  Error fetch_error(const Object* object, ObjRef ref, ObjType type) const;
  Error unknown_type(ObjType type) const;
  const ObjOps* search_ops(ObjType type) const noexcept;
  const Object* find_sparse(ObjRef ref) const noexcept;
  bool next_entry(Entry& entry) const noexcept;

  Result<void> check_ref(ObjRef ref) const;
  Result<void> check_key(std::uint64_t key) const;
  Result<void> check_usable() const;
  Result<Added> add_after_nested(std::uint64_t key, const ObjOps& ops);
  Result<ObjRef> next_ref();
  Result<void> make_room(ObjRef ref);
  Place find_zero() const noexcept;
  void store_key(std::uint64_t key, ObjRef ref, ObjType type, std::uint16_t flags) noexcept;
  void store_near(std::uint64_t key, ObjRef ref, ObjType type, std::uint16_t state) noexcept;
  Result<void> store(std::uint64_t key, ObjRef ref, ObjType type);
  Result<void> store_object(std::uint64_t key, ObjRef ref, ObjType type, std::uint16_t state);
  Result<void> grow_lines(std::size_t lines);
  Result<void> grow_objects(std::size_t capacity);
  bool is_near(ObjRef ref) const noexcept;
  void reset() noexcept;
  std::move_only_function<void()> detach() noexcept;

  static const Line kNoLines[2];

  Line* lines_;  // never null: kNoLines at first
  std::size_t mask_;
  unsigned shift_;
  std::uint32_t dense_ = 0;  // objrefs below it are in objects_
  Object* objects_ = nullptr;
  std::uint64_t seed_;
  std::span<const ObjOps> ops_;
  std::size_t keyed_ = 0;    // slots in use
  std::size_t grow_at_ = 0;  // slots in use at which the table grows
  std::size_t size_ = 0;
  std::int64_t next_ = 1;
  std::uint64_t epoch_ = 0;  // counts additions: tells whether a callback made some
  bool clearing_ = false;
  MemoryPtr memory_;
  MemoryPtr detached_;
};

}  // namespace stasis
