// SPDX-License-Identifier: Apache-2.0
// Application-level checkpointing: a simulation saves its own object graph, and another one goes on from there.
//
// Particles are made of materials, which they share; springs connect them, several to one particle; and each has a
// neighbour, in a circle. Each object must be saved once and be one object again afterwards. ObjHash sees to that: on
// the way out it numbers an object at the first encounter and has its state written then, later encounters yield the
// number alone; on the way in each number becomes an object once, which others then get by number.
//
// The circle is restored in two steps, as Stasis does it for processes: first every object, with its neighbour left
// open; then deferred works set the neighbours. They run when the image is known to be whole, before which nothing of
// it may be relied on.
//
// References: the hash keeps one to each object while it is in use. clear() drops them, so that what the simulation did
// not take over is gone before it goes on; in particular everything, where the image turns out to be damaged.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "stasis/defer_queue.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"
#include "stasis/image_schema.h"
#include "stasis/objhash.h"

namespace {

using namespace stasis;

// ---- the simulation ----

int g_living = 0;  // objects, to see that none is lost

// An object with a count of its owners, the first of which is whoever made it.
struct Counted {
  Counted() { ++g_living; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  virtual ~Counted() { --g_living; }
  int owners = 1;
};
void release(Counted* object) {
  if (--object->owners == 0) delete object;
}

// One of the owners of a T.
template <class T>
class Owned {
 public:
  Owned() = default;
  static Owned adopt(T* object) { return Owned(object); }  // takes over the caller's share
  static Owned share(T* object) {
    ++object->owners;
    return Owned(object);
  }
  Owned(const Owned& other) : object_(other.object_) { ++object_->owners; }
  Owned(Owned&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Owned& operator=(Owned other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Owned() {
    if (object_ != nullptr) release(object_);
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }

 private:
  explicit Owned(T* object) : object_(object) {}
  T* object_ = nullptr;
};

struct Material : Counted {
  std::string name;
  std::int64_t stiffness = 1;
};

struct Particle : Counted {
  std::int64_t position = 0;
  std::int64_t velocity = 0;
  Owned<Material> material;
  Particle* neighbour = nullptr;
};

struct Spring {
  Particle* from;
  Particle* to;
};

// In integers, so that two runs can be compared bit by bit.
struct Simulation {
  std::int64_t time = 0;
  std::vector<Owned<Particle>> particles;
  std::vector<Spring> springs;

  void step() {
    for (const Spring& spring : springs) {
      const std::int64_t pull = (spring.to->position - spring.from->position) / 64 * spring.from->material->stiffness;
      spring.from->velocity += pull;
      spring.to->velocity -= pull;
    }
    for (const auto& particle : particles) {
      particle->position += particle->velocity / 16 + particle->neighbour->velocity / 1024;
    }
    ++time;
  }
};

Simulation build(std::size_t count) {
  Simulation simulation;
  std::vector<Owned<Material>> materials;
  for (const auto& [name, stiffness] : {std::pair{"rubber", 1}, {"steel", 5}, {"glass", 3}}) {
    auto material = Owned<Material>::adopt(new Material);
    material->name = name;
    material->stiffness = stiffness;
    materials.push_back(material);
  }
  for (std::size_t i = 0; i < count; ++i) {
    auto particle = Owned<Particle>::adopt(new Particle);
    particle->position = static_cast<std::int64_t>(i * i % 9973);
    particle->material = materials[i % materials.size()];
    simulation.particles.push_back(std::move(particle));
  }
  const auto nth = [&](std::size_t i) { return simulation.particles[i % count].get(); };
  for (std::size_t i = 0; i < count; ++i) {
    nth(i)->neighbour = nth(i + 1);
    simulation.springs.push_back({nth(i), nth(i * 7 + 3)});
    simulation.springs.push_back({nth(i), nth(i * 5 + 1)});
  }
  return simulation;
}

// ---- what it looks like in an image ----

constexpr ObjType kMaterialObject = 1, kParticleObject = 2;

constexpr RecordType application_record(std::uint32_t n) { return RecordType{kFirstApplicationRecord + n}; }

struct MaterialRecord {
  static constexpr RecordType kType = application_record(1);
  static constexpr std::string_view kName = "material";
  std::string name;
  std::int64_t stiffness = 0;
  static constexpr auto fields() {
    return std::tuple{field<1>("name", &MaterialRecord::name, MaxLength{256}),
                      field<2>("stiffness", &MaterialRecord::stiffness)};
  }
};

struct ParticleRecord {
  static constexpr RecordType kType = application_record(2);
  static constexpr std::string_view kName = "particle";
  std::int64_t position = 0;
  std::int64_t velocity = 0;
  ObjRef material;
  static constexpr auto fields() {
    return std::tuple{field<1>("position", &ParticleRecord::position), field<2>("velocity", &ParticleRecord::velocity),
                      field<3>("material", &ParticleRecord::material)};
  }
};

// From one object to another: a spring, or a particle and its neighbour.
struct LinkRecord {
  ObjRef from;
  ObjRef to;
  static constexpr auto fields() {
    return std::tuple{field<1>("from", &LinkRecord::from), field<2>("to", &LinkRecord::to)};
  }
};

struct SimulationRecord {
  static constexpr RecordType kType = application_record(3);
  static constexpr std::string_view kName = "simulation";
  std::int64_t time = 0;
  std::vector<LinkRecord> neighbours;  // of all particles, in order
  std::vector<LinkRecord> springs;
  static constexpr auto fields() {
    return std::tuple{field<1>("time", &SimulationRecord::time), field<2>("neighbours", &SimulationRecord::neighbours),
                      field<3>("springs", &SimulationRecord::springs)};
  }
};

// ---- the operations of each type ----

struct Saving {
  ObjHash& hash;
  ImageWriter& writer;
};
struct Loading {
  ObjHash& hash;
  ImageReader& reader;
};

Result<void> grab(void* object) {
  ++static_cast<Counted*>(object)->owners;
  return {};
}

template <class T>
void drop(void* object, LastRef) {
  release(static_cast<T*>(object));
}

Result<void> save_material(void* context, ObjRef ref, void* object) {
  ImageWriter& writer = static_cast<Saving*>(context)->writer;
  const auto& material = *static_cast<const Material*>(object);
  STASIS_TRY(writer.begin_object(ref, kMaterialObject));
  MaterialRecord record;
  record.name = material.name;
  record.stiffness = material.stiffness;
  return writer.write(record);
}

Result<void> save_particle(void* context, ObjRef ref, void* object) {
  const auto& saving = *static_cast<Saving*>(context);
  const auto& particle = *static_cast<const Particle*>(object);
  ParticleRecord record;
  record.position = particle.position;
  record.velocity = particle.velocity;
  // A new material is written here, before the record that names it.
  record.material = STASIS_TRY(saving.hash.checkpoint_obj(context, particle.material.get(), kMaterialObject));
  STASIS_TRY(saving.writer.begin_object(ref, kParticleObject));
  return saving.writer.write(record);
}

// What these return is the hash's share.
Result<void*> load_material(void* context, ObjRef) {
  const MaterialRecord record = STASIS_TRY(static_cast<Loading*>(context)->reader.read<MaterialRecord>());
  auto* const material = new Material;
  material->name = record.name;
  material->stiffness = record.stiffness;
  return material;
}

Result<void*> load_particle(void* context, ObjRef) {
  const auto& loading = *static_cast<Loading*>(context);
  const ParticleRecord record = STASIS_TRY(loading.reader.read<ParticleRecord>());
  Material* const material = STASIS_TRY(loading.hash.fetch<Material>(record.material, kMaterialObject));
  auto* const particle = new Particle;
  particle->position = record.position;
  particle->velocity = record.velocity;
  particle->material = Owned<Material>::share(material);
  return particle;
}

constexpr ObjOps kOps[] = {
    {.type = kObjIgnore, .name = "ignored object"},
    {.type = kMaterialObject,
     .name = "material",
     .grab = grab,
     .drop = drop<Material>,
     .checkpoint = save_material,
     .restore = load_material},
    {.type = kParticleObject,
     .name = "particle",
     .grab = grab,
     .drop = drop<Particle>,
     .checkpoint = save_particle,
     .restore = load_particle},
};

// ---- saving and loading ----

// Returns how many objects were saved.
Result<std::size_t> save(const Simulation& simulation, const std::string& path) {
  ObjHash hash(kOps);
  ImageWriter writer = STASIS_TRY(ImageWriter::create(path, {}));
  STASIS_TRY(writer.write(EnvironmentRecord::of_this_machine()));
  Saving context{hash, writer};
  SimulationRecord record;
  record.time = simulation.time;
  const auto ref_of = [&](Particle* particle) { return hash.checkpoint_obj(&context, particle, kParticleObject); };
  for (const auto& particle : simulation.particles) {
    const ObjRef from = STASIS_TRY(ref_of(particle.get()));
    record.neighbours.push_back({from, STASIS_TRY(ref_of(particle->neighbour))});
  }
  for (const Spring& spring : simulation.springs) {
    record.springs.push_back({STASIS_TRY(ref_of(spring.from)), STASIS_TRY(ref_of(spring.to))});
  }
  STASIS_TRY(writer.write(record));
  STASIS_TRY(writer.end_structure());
  STASIS_TRY(writer.publish());
  return hash.size();
}

Result<Simulation> load(const std::string& path) {
  ImageReader reader = STASIS_TRY(ImageReader::open(path, {}));
  ObjHash hash(kOps);
  Loading context{hash, reader};
  // An object's records stand before the record that names it first: it is made when the reader comes upon them.
  reader.set_object_handler([&](ObjRef ref, ObjType type) -> Result<void> {
    STASIS_TRY(hash.restore_obj(&context, ref, type));
    return {};
  });
  const SimulationRecord record = STASIS_TRY(reader.read<SimulationRecord>());

  Simulation simulation;
  simulation.time = record.time;
  const auto particle = [&](ObjRef ref) { return hash.fetch<Particle>(ref, kParticleObject); };
  DeferQueue later;
  for (const LinkRecord& link : record.neighbours) {
    Particle* const from = STASIS_TRY(particle(link.from));
    simulation.particles.push_back(Owned<Particle>::share(from));
    const auto set_neighbour = [&particle, from, to = link.to]() -> Result<void> {
      from->neighbour = STASIS_TRY(particle(to));
      return {};
    };
    STASIS_TRY(later.add(set_neighbour));
  }
  for (const LinkRecord& link : record.springs) {
    simulation.springs.push_back({STASIS_TRY(particle(link.from)), STASIS_TRY(particle(link.to))});
  }
  STASIS_TRY(reader.expect_end());
  STASIS_TRY(reader.finish());
  STASIS_TRY(later.run());
  hash.clear();  // from here on the simulation alone owns its objects
  return simulation;
}

bool same(const Simulation& a, const Simulation& b) {
  if (a.time != b.time || a.particles.size() != b.particles.size()) return false;
  for (std::size_t i = 0; i < a.particles.size(); ++i) {
    if (a.particles[i]->position != b.particles[i]->position || a.particles[i]->velocity != b.particles[i]->velocity) {
      return false;
    }
  }
  return true;
}

Result<void> demonstrate(const std::string& path) {
  constexpr std::size_t kParticles = 2000;
  Simulation original = build(kParticles);
  for (int i = 0; i < 50; ++i) original.step();
  const std::size_t saved = STASIS_TRY(save(original, path));
  if (saved != kParticles + 3) return Error(Errc::kInternal, "an object was saved twice, or not at all");

  Simulation resumed = STASIS_TRY(load(path));
  if (!same(original, resumed)) return Error(Errc::kInternal, "the simulation was not restored as it was");
  if (g_living != 2 * (static_cast<int>(kParticles) + 3)) return Error(Errc::kInternal, "shared objects were doubled");
  for (int i = 0; i < 50; ++i) {
    original.step();
    resumed.step();
  }
  if (!same(original, resumed)) return Error(Errc::kInternal, "the restored simulation went another way");

  // A damaged image is refused, and what had been made of it is gone again.
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  if (load(path)) return Error(Errc::kInternal, "half an image was taken for a whole one");
  if (g_living != 2 * (static_cast<int>(kParticles) + 3)) return Error(Errc::kInternal, "a failed load left objects");
  std::printf("%zu objects saved, restored and run on to step %lld\n", saved, static_cast<long long>(resumed.time));
  return {};
}

}  // namespace

int main() {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("stasis-object-graph-" + std::to_string(::getpid()))).string();
  const Result<void> done = demonstrate(path);
  std::filesystem::remove(path);
  if (!done) std::fprintf(stderr, "object_graph: %s\n", done.error().to_string().c_str());
  if (g_living != 0) std::fprintf(stderr, "object_graph: %d objects leaked\n", g_living);
  return done && g_living == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
