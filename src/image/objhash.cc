// SPDX-License-Identifier: Apache-2.0
// Two arrays hold the objects: `lines_`, a hash table from key to objref, and `objects_`, indexed by objref.
//
//  * The table is made of lines of four slots, a cache line each; a key is in the line its hash names or, where that is
//    full (few are at a load under 0.6), in the next. It takes the upper bits of the hash, so that growing it is one
//    pass over both tables in order. From 2 MiB on both arrays lie on huge pages: at 1e7 objects a lookup is then one
//    cache miss and no TLB miss.
//  * Objrefs come from images too. One that lies far above the number of objects (2^31-1 in an image of ten) goes to a
//    sorted map instead of making the array that long; objrefs in the map are always above those in the array, so that
//    the two together are in order. When the array grows past some, these move into it.
#include "stasis/objhash.h"

#include <sys/mman.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <map>
#include <new>
#include <string>

#include "base/huge_memory.h"

namespace stasis {
namespace {

constexpr std::size_t kFirstLines = 16;
// Tables grow fourfold up to here (4 MiB), then twofold.
constexpr std::size_t kLargeLines = std::size_t{1} << 16;
constexpr std::size_t kMaxLines = std::size_t{1} << 30;
constexpr std::size_t kFirstObjects = 64;
// An array this long is always allowed, however few objects there are.
constexpr std::size_t kSmallDense = 4096;
// ... and one of up to this many entries per object.
constexpr std::size_t kDenseSpread = 8;

constexpr std::uint16_t kAbsent = 0;
constexpr std::uint16_t kKeyed = 1;
constexpr std::uint16_t kNullObject = 2;

// Line::about[].flags
constexpr std::uint16_t kCheckpointFailed = 1;

std::size_t load_limit(std::size_t lines) { return lines * 12 / 5; }

// Without randomness somebody who chooses the keys could make all of them collide.
std::uint64_t random_seed(const void* salt) noexcept {
  std::uint64_t seed = 0;
  if (::getrandom(&seed, sizeof seed, GRND_NONBLOCK) == static_cast<ssize_t>(sizeof seed)) return seed;
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return (static_cast<std::uint64_t>(now.tv_nsec) * 0x2545'f491'4f6c'dd1d) ^ reinterpret_cast<std::uintptr_t>(salt);
}

// Zero-filled array of trivial elements; owns its memory.
template <class Element>
class ZeroedArray {
 public:
  ZeroedArray() = default;
  ZeroedArray(ZeroedArray&& other) noexcept
      : elements_(std::exchange(other.elements_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  ZeroedArray& operator=(ZeroedArray&& other) noexcept {
    std::swap(elements_, other.elements_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~ZeroedArray() {
    if (bytes_ >= kHugePage) {
      unmap_huge(elements_, bytes_);
    } else {
      std::free(elements_);
    }
  }

  // Null data() if there is no memory. REQUIRES: size a power of two, in bytes at least 64.
  static ZeroedArray make(std::size_t size) noexcept {
    ZeroedArray array;
    const std::size_t bytes = size * sizeof(Element);
    void* memory = nullptr;
    if (bytes >= kHugePage) {
      memory = map_huge(bytes);
    } else if (memory = std::aligned_alloc(64, bytes); memory != nullptr) {
      std::memset(memory, 0, bytes);
    }
    array.elements_ = static_cast<Element*>(memory);
    array.bytes_ = memory == nullptr ? 0 : bytes;
    return array;
  }
  // Makes the array longer; on failure it stays as it is. Large ones are moved by page table, not copied.
  bool extend(std::size_t size) noexcept {
    ZeroedArray longer = make(size);
    if (longer.data() == nullptr) return false;
    if (bytes_ >= kHugePage) {
      if (::mremap(elements_, bytes_, bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, longer.elements_) == MAP_FAILED) {
        return false;
      }
      elements_ = nullptr;
      bytes_ = 0;
    } else if (bytes_ != 0) {
      std::memcpy(static_cast<void*>(longer.elements_), elements_, bytes_);
    }
    *this = std::move(longer);
    return true;
  }
  Element* data() const noexcept { return elements_; }

 private:
  Element* elements_ = nullptr;
  std::size_t bytes_ = 0;
};

std::string number(std::int64_t value) { return std::to_string(value); }

}  // namespace

struct ObjHash::Memory {
  ZeroedArray<Line> lines;
  ZeroedArray<Object> objects;
  std::map<std::int32_t, Object> sparse;
};

void ObjHash::MemoryDeleter::operator()(Memory* memory) const noexcept { delete memory; }

const ObjHash::Line ObjHash::kNoLines[2] = {};

ObjHash::ObjHash(std::span<const ObjOps> ops) noexcept : seed_(random_seed(this)), ops_(ops) { reset(); }

ObjHash::~ObjHash() { clear(); }

// Empty, with no memory of its own.
void ObjHash::reset() noexcept {
  lines_ = const_cast<Line*>(kNoLines);  // never written: grow_at_ is 0
  mask_ = 1;
  shift_ = 63;
  dense_ = 0;
  objects_ = nullptr;
  keyed_ = grow_at_ = size_ = 0;
  next_ = 1;
}

// ---- errors ----

Error ObjHash::null_object() { return Error(Errc::kInvalidArgument, "a null pointer is no shared object"); }

Error ObjHash::unknown_type(ObjType type) const {
  return Error(Errc::kInvalidArgument, "object type " + number(type) + " is not known");
}

// REQUIRES: the type is unknown, or the object is there and has another.
Error ObjHash::lookup_error(Place place, ObjType type) const {
  const ObjOps* const wanted = find_ops(type);
  if (wanted == nullptr || place.line == nullptr) return unknown_type(type);
  return Error(Errc::kTypeMismatch, "object " + number(place.ref().value()) + " is a " + find_ops(place.type())->name +
                                        ", not a " + wanted->name);
}

Error ObjHash::fetch_error(const Object* object, ObjRef ref, ObjType type) const {
  const ObjOps* const wanted = find_ops(type);
  if (wanted == nullptr) return unknown_type(type);
  if (object == nullptr) {
    return Error(Errc::kNotFound,
                 std::string("there is no object ") + number(ref.value()) + " (a " + wanted->name + ")");
  }
  return Error(Errc::kTypeMismatch,
               "object " + number(ref.value()) + " is a " + find_ops(object->type)->name + ", not a " + wanted->name);
}

Result<void> ObjHash::check_usable() const {
  if (clearing_) return Error(Errc::kBusy, "the object hash is being cleared");
  return {};
}

Result<void> ObjHash::check_ref(ObjRef ref) const {
  if (ref.value() <= 0) return Error(Errc::kInvalidArgument, "objref " + number(ref.value()) + " is not positive");
  if (find_object(ref) != nullptr) return Error(Errc::kExists, "objref " + number(ref.value()) + " is taken");
  return {};
}

Result<void> ObjHash::check_key(std::uint64_t key) const {
  const Place place = find_key(key);
  if (place.line == nullptr) return {};
  return Error(Errc::kExists, "the object is here already, as objref " + number(place.ref().value()));
}

// ---- types ----

const ObjOps* ObjHash::search_ops(ObjType type) const noexcept {
  static constexpr ObjOps kIgnore{.type = kObjIgnore, .name = "ignored object"};
  for (const ObjOps& ops : ops_) {
    if (ops.type == type) return &ops;
  }
  return type == kObjIgnore ? &kIgnore : nullptr;
}

// ---- storage ----

// The key that free slots seem to have.
ObjHash::Place ObjHash::find_zero() const noexcept {
  for (std::size_t i = hash(0, seed_) >> shift_;; i = (i + 1) & mask_) {
    Line& line = lines_[i];
    for (unsigned slot = 0; slot < 4; ++slot) {
      if (line.ref[slot] == 0) return {nullptr, 0};
      if (line.low[slot] == 0 && line.high[slot] == 0) return {&line, slot};
    }
  }
}

// REQUIRES: the key is absent and the table is not full.
inline void ObjHash::store_key(std::uint64_t key, ObjRef ref, ObjType type, std::uint16_t flags) noexcept {
  std::size_t i = hash(key, seed_) >> shift_;
  while (lines_[i].ref[3] != 0) i = (i + 1) & mask_;
  Line& line = lines_[i];
  const int slot = (line.ref[0] != 0) + (line.ref[1] != 0) + (line.ref[2] != 0);
  line.low[slot] = static_cast<std::uint32_t>(key);
  line.high[slot] = static_cast<std::uint32_t>(key >> 32);
  line.ref[slot] = ref.value();
  line.about[slot] = {type, flags};
  ++keyed_;
}

const ObjHash::Object* ObjHash::find_sparse(ObjRef ref) const noexcept {
  if (memory_ == nullptr) return nullptr;
  const auto found = memory_->sparse.find(ref.value());
  return found == memory_->sparse.end() ? nullptr : &found->second;
}

Result<ObjRef> ObjHash::next_ref() {
  constexpr std::int64_t kLast = std::numeric_limits<std::int32_t>::max();
  while (next_ <= kLast && find_object(ObjRef(static_cast<std::int32_t>(next_))) != nullptr) ++next_;
  if (next_ > kLast) return Error(Errc::kOverflow, "no objref is left");
  return ObjRef(static_cast<std::int32_t>(next_));
}

// May `ref` lie in the array, given how many objects there are?
bool ObjHash::is_near(ObjRef ref) const noexcept {
  const std::size_t needed = std::bit_ceil(static_cast<std::size_t>(ref.value()) + 1);
  return needed <= std::max(kSmallDense, kDenseSpread * (size_ + 1));
}

// After it one more object under `ref` can be stored (but for the node of a far-out objref).
Result<void> ObjHash::make_room(ObjRef ref) {
  if (memory_ == nullptr) {
    memory_.reset(new (std::nothrow) Memory);
    if (memory_ == nullptr) return Error(Errc::kNoMemory, "no memory for the object hash");
  }
  if (keyed_ >= grow_at_) {
    const std::size_t lines = mask_ + 1;
    STASIS_TRY(grow_lines(grow_at_ == 0 ? kFirstLines : lines < kLargeLines ? lines * 4 : lines * 2));
  }
  const auto i = static_cast<std::uint32_t>(ref.value());
  if (i >= dense_ && is_near(ref)) STASIS_TRY(grow_objects(std::max(kFirstObjects, std::bit_ceil(std::size_t{i} + 1))));
  return {};
}

Result<void> ObjHash::grow_lines(std::size_t lines) {
  if (lines > kMaxLines) return Error(Errc::kOverflow, "too many shared objects");
  auto bigger = ZeroedArray<Line>::make(lines);
  if (bigger.data() == nullptr) {
    return Error(Errc::kNoMemory, "no memory for " + std::to_string(lines * 4) + " slots of the object hash");
  }
  const Line* const old = lines_;
  const std::size_t old_size = mask_ + 1;
  lines_ = bigger.data();
  mask_ = lines - 1;
  shift_ = static_cast<unsigned>(64 - std::countr_zero(lines));
  grow_at_ = load_limit(lines);
  keyed_ = 0;
  for (std::size_t i = 0; i < old_size; ++i) {
    for (int slot = 0; slot < 4 && old[i].ref[slot] != 0; ++slot) {
      const std::uint64_t key = old[i].low[slot] | std::uint64_t{old[i].high[slot]} << 32;
      store_key(key, ObjRef(old[i].ref[slot]), old[i].about[slot].type, old[i].about[slot].flags);
    }
  }
  memory_->lines = std::move(bigger);
  return {};
}

Result<void> ObjHash::grow_objects(std::size_t capacity) {
  if (!memory_->objects.extend(capacity)) {
    return Error(Errc::kNoMemory, "no memory for " + std::to_string(capacity) + " objrefs");
  }
  objects_ = memory_->objects.data();
  dense_ = static_cast<std::uint32_t>(capacity);
  auto& sparse = memory_->sparse;
  while (!sparse.empty() && static_cast<std::uint32_t>(sparse.begin()->first) < dense_) {
    objects_[sparse.begin()->first] = sparse.begin()->second;
    sparse.erase(sparse.begin());
  }
  return {};
}

// REQUIRES: ref < dense_.
inline void ObjHash::store_near(std::uint64_t key, ObjRef ref, ObjType type, std::uint16_t state) noexcept {
  objects_[ref.value()] = Object{key, type, state};
  ++size_;
  ++epoch_;
}

Result<void> ObjHash::store_object(std::uint64_t key, ObjRef ref, ObjType type, std::uint16_t state) {
  if (static_cast<std::uint32_t>(ref.value()) < dense_) {
    store_near(key, ref, type, state);
    return {};
  }
  try {
    memory_->sparse.emplace(ref.value(), Object{key, type, state});
  } catch (const std::bad_alloc&) {
    return Error(Errc::kNoMemory, "no memory for objref " + number(ref.value()));
  }
  ++size_;
  ++epoch_;
  return {};
}

// REQUIRES: make_room(ref); key and ref absent.
Result<void> ObjHash::store(std::uint64_t key, ObjRef ref, ObjType type) {
  STASIS_TRY(store_object(key, ref, type, kKeyed));
  store_key(key, ref, type, 0);
  return {};
}

Result<void> ObjHash::expect(std::size_t objects) {
  STASIS_TRY(check_usable());
  if (objects > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return Error(Errc::kOverflow, "there are fewer objrefs than that");
  }
  STASIS_TRY(make_room(ObjRef(1)));
  std::size_t lines = mask_ + 1;
  while (load_limit(lines) < objects) lines *= 2;
  if (lines > mask_ + 1) STASIS_TRY(grow_lines(lines));
  const std::size_t dense = std::max(kFirstObjects, std::bit_ceil(objects + 1));
  if (dense > dense_) STASIS_TRY(grow_objects(dense));
  return {};
}

// ---- adding ----

Result<ObjHash::Added> ObjHash::lookup_add(std::uint64_t key, ObjType type) {
  if (const Place place = find_key(key); place.line != nullptr) {
    if (place.type() != type) return lookup_error(place, type);
    return Added{place.ref(), false};
  }
  const ObjOps* const ops = find_ops(type);
  if (ops == nullptr) return unknown_type(type);
  // Almost always there is room, and the next objref is free.
  auto ref = ObjRef(static_cast<std::int32_t>(next_));
  const bool easy = keyed_ < grow_at_ && next_ < dense_ && objects_[next_].state == kAbsent && !clearing_;
  if (!easy) {
    STASIS_TRY(check_usable());
    ref = STASIS_TRY(next_ref());
    STASIS_TRY(make_room(ref));
  }
  if (ops->grab != nullptr) {
    const std::uint64_t epoch = epoch_;
    STASIS_TRY(ops->grab(to_object(key)));
    if (epoch != epoch_ || next_ != ref.value()) [[unlikely]]
      return add_after_nested(key, *ops);
  }
  next_ = ref.value() + std::int64_t{1};
  if (static_cast<std::uint32_t>(ref.value()) < dense_) [[likely]] {
    store_near(key, ref, type, kKeyed);
    store_key(key, ref, type, 0);
    return Added{ref, true};
  }
  if (Result<void> stored = store(key, ref, type); !stored) {
    --next_;
    if (ops->drop != nullptr) ops->drop(to_object(key), LastRef::kNo);
    return std::move(stored.error());
  }
  return Added{ref, true};
}

// The object is grabbed, but its grab added to this hash: whatever was known before it may be wrong.
Result<ObjHash::Added> ObjHash::add_after_nested(std::uint64_t key, const ObjOps& ops) {
  const auto add = [&]() -> Result<Added> {
    if (const Place place = find_key(key); place.line != nullptr) {
      if (place.type() != ops.type) return lookup_error(place, ops.type);
      return Added{place.ref(), false};
    }
    const ObjRef ref = STASIS_TRY(next_ref());
    STASIS_TRY(make_room(ref));
    STASIS_TRY(store(key, ref, ops.type));
    next_ = ref.value() + std::int64_t{1};
    return Added{ref, true};
  };
  Result<Added> added = add();
  if ((!added || !added->first) && ops.drop != nullptr) ops.drop(to_object(key), LastRef::kNo);
  return added;
}

Result<void> ObjHash::insert(std::uint64_t key, ObjRef ref, ObjType type) {
  const ObjOps* const ops = find_ops(type);
  if (ops == nullptr) return unknown_type(type);
  STASIS_TRY(check_usable());
  STASIS_TRY(check_ref(ref));
  STASIS_TRY(check_key(key));
  STASIS_TRY(make_room(ref));
  if (ops->grab != nullptr) STASIS_TRY(ops->grab(to_object(key)));
  // Once more, as the grab may have added objects.
  Result<void> added = check_ref(ref);
  if (added) added = check_key(key);
  if (added) added = make_room(ref);
  if (added) added = store(key, ref, type);
  if (!added && ops->drop != nullptr) ops->drop(to_object(key), LastRef::kNo);
  return added;
}

Result<ObjRef> ObjHash::reserve() {
  STASIS_TRY(check_usable());
  const ObjRef ref = STASIS_TRY(next_ref());
  ++next_;
  return ref;
}

Result<ObjRef> ObjHash::checkpoint_obj(void* context, void* object, ObjType type) {
  const Added added = STASIS_TRY(lookup_add(object, type));
  if (!added.first) {
    if ((find_key(to_key(object)).flags() & kCheckpointFailed) != 0) {
      return Error(Errc::kInvalidArgument, "object " + number(added.ref.value()) + " failed to be saved before");
    }
    return added.ref;
  }
  const ObjOps* const ops = find_ops(type);
  if (ops->checkpoint == nullptr) return added.ref;
  Result<void> saved = ops->checkpoint(context, added.ref, object);
  if (saved) return added.ref;
  find_key(to_key(object)).flags() |= kCheckpointFailed;
  return std::move(saved.error());
}

Result<ObjRef> ObjHash::restore_obj(void* context, ObjRef ref, ObjType type) {
  const ObjOps* const ops = find_ops(type);
  if (ops == nullptr) return unknown_type(type);
  STASIS_TRY(check_usable());
  STASIS_TRY(check_ref(ref));
  void* object = nullptr;
  if (ops->restore != nullptr) object = STASIS_TRY(ops->restore(context, ref));
  // Once more, as restoring it may have restored others (a malformed image: itself).
  Result<void> added = check_ref(ref);
  if (added && object != nullptr) added = check_key(to_key(object));
  if (added) added = make_room(ref);
  if (added) added = object != nullptr ? store(to_key(object), ref, type) : store_object(0, ref, type, kNullObject);
  if (added) return ref;
  if (object != nullptr && ops->drop != nullptr) ops->drop(object, LastRef::kYes);
  return std::move(added.error());
}

// ---- all of them ----

// Moves `entry` on to the object with the next higher objref; false after the last.
bool ObjHash::next_entry(Entry& entry) const noexcept {
  for (auto i = static_cast<std::uint32_t>(entry.ref.value()) + 1; i < dense_; ++i) {
    if (objects_[i].state == kAbsent) continue;
    entry = Entry{ObjRef(static_cast<std::int32_t>(i)), objects_[i].type, objects_[i].key};
    return true;
  }
  if (memory_ == nullptr) return false;
  const auto found = memory_->sparse.upper_bound(entry.ref.value());
  if (found == memory_->sparse.end()) return false;
  entry = Entry{ObjRef(found->first), found->second.type, found->second.key};
  return true;
}

void ObjHash::clear() noexcept {
  if (clearing_) return;
  clearing_ = true;
  const auto drop = [this](const Object& object) {
    if (object.state != kKeyed) return;
    const ObjOps* const ops = find_ops(object.type);
    if (ops->drop != nullptr) ops->drop(to_object(object.key), LastRef::kYes);
  };
  std::size_t left = size_;
  for (std::uint32_t i = 0; i < dense_ && left != 0; ++i) {
    left -= objects_[i].state != kAbsent;
    drop(objects_[i]);
  }
  if (memory_ != nullptr) {
    for (const auto& [ref, object] : memory_->sparse) drop(object);
    detached_ = std::move(memory_);
  }
  reset();
  clearing_ = false;
}

void ObjHash::free_later() noexcept { detached_.reset(); }

std::move_only_function<void()> ObjHash::detach() noexcept {
  return [memory = std::move(detached_)]() mutable { memory.reset(); };
}

}  // namespace stasis
