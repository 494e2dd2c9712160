// SPDX-License-Identifier: Apache-2.0
#include "engine/tree_view.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <optional>

#include "image/environment.h"
#include "image/format.h"
#include "image/page_runs.h"
#include "image/view.h"
#include "resource/file_table/file_table.h"
#include "resource/fs/fs.h"
#include "resource/memory/memory_record.h"
#include "resource/object_table.h"
#include "resource/process/process_record.h"
#include "resource/thread/thread_record.h"

namespace stasis {
namespace {

using Json = nlohmann::ordered_json;

struct ViewedProcess {
  ProcessRecord record;
  std::string name;
  std::vector<ImagePid> threads;
  std::vector<std::size_t> children;
};

// A descriptor, and a process that shares an object.
struct Holder {
  ImagePid pid;
  std::int32_t fd = -1;
  bool operator==(const Holder&) const = default;
};

struct ViewedFile {
  std::string kind;
  std::string path;    // empty: it has none
  std::string behind;  // the object that its ends or openings have in common, as view_fields_text() prints it
  std::vector<Holder> holders;
};

// Fields by which the record of an open file names what is behind it: a pipe's ends the pipe, a terminal's slave the
// terminal, a unix socket the link to its peer.
constexpr std::array<std::string_view, 7> kBehind = {"pipe", "terminal", "link", "peer", "memory", "nameless", "queue"};

std::string kind_name(ObjType type) {
  const auto names = object_names();
  const auto row = std::ranges::find(names, type, &EnumName<ObjType>::value);
  return row == names.end() ? fmt::format("type {}", type) : std::string(row->name);
}

// The value of a record's field, if it has one of that name.
std::optional<std::string> text_field(const RawRecord& raw, std::string_view field) {
  const auto rows = resource_records();
  const auto row = std::ranges::find(rows, raw.type, &RecordInfo::type);
  if (row == rows.end()) return std::nullopt;
  const std::string text = view_fields_text(*row, raw.payload);
  const std::string key = fmt::format("{}: ", field);
  for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) {
    const bool begins = at == 0 || text[at - 1] == ' ' || text[at - 1] == '\n';
    if (!begins) continue;
    std::string value = text.substr(at + key.size(), text.find('\n', at) - at - key.size());
    if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
    return value;
  }
  return std::nullopt;
}

class ImageTree {
 public:
  static Result<ImageTree> read(const ImageReader& image);
  std::string text() const;
  Json json() const;

 private:
  Result<void> take_object(ObjRef ref, ObjType type, const RawRecord& raw);
  void find_holders();
  void find_mapped();
  void find_children();
  std::vector<ImagePid> sharers(const ViewedProcess& process, ObjRef ProcessRecord::* object) const;
  ImagePid holder_of(ObjRef memory) const;
  std::vector<Holder> others_behind(ObjRef file) const;
  std::vector<ImagePid> others_mapping(const ViewedProcess& process, const MemoryRecord& memory,
                                       const VmaRecord& vma) const;
  void write_process(std::string& out, std::size_t index, const std::string& indent) const;
  void write_shares(std::string& out, const ViewedProcess& process, const std::string& indent) const;
  void write_descriptors(std::string& out, const ViewedProcess& process, const std::string& indent) const;
  void write_mappings(std::string& out, const ViewedProcess& process, const std::string& indent) const;
  Json process_json(const ViewedProcess& process) const;
  Json descriptors_json(const ViewedProcess& process) const;
  Json mappings_json(const ViewedProcess& process) const;

  EnvironmentRecord environment_;
  std::uint64_t inherited_bytes_ = 0;  // in the parent; not known of a stream
  std::vector<ViewedProcess> processes_;
  std::vector<std::size_t> tops_;
  std::map<ObjRef, ViewedFile> files_;
  std::map<std::string, std::vector<ObjRef>> behind_;    // the files that have an object in common
  std::map<std::string, std::vector<ImagePid>> mapped_;  // who maps what, shared
  std::map<ObjRef, FileTableRecord> tables_;
  std::map<ObjRef, MemoryRecord> memories_;
  std::map<ObjRef, FsRecord> places_;
  std::map<ObjRef, ForkedPagesRecord> forked_;  // by the address space that has them
};

Result<ImageTree> ImageTree::read(const ImageReader& image) {
  ImageTree tree;
  tree.environment_ = image.environment();
  for (const ChunkInfo& chunk : image.chunks()) {
    if (chunk.codec == Codec::kParent) tree.inherited_bytes_ += chunk.raw_size;
  }
  ObjectRecord object;  // that the next record belongs to; null: none
  ObjRef last_memory;   // that the record before this one was of
  for (std::size_t i = 0; i < image.record_count(); ++i) {
    const RawRecord raw = image.record(i);
    if (raw.type == RecordType::kObject) {
      object = STASIS_TRY(decode<ObjectRecord>(raw.payload, ObjectRecord::kName));
      continue;
    }
    if (raw.type == RecordType::kProcess) {
      tree.processes_.push_back({.record = STASIS_TRY(decode<ProcessRecord>(raw.payload, ProcessRecord::kName)),
                                 .name = {},
                                 .threads = {},
                                 .children = {}});
    } else if (raw.type == RecordType::kThread && !tree.processes_.empty()) {
      const auto thread = STASIS_TRY(decode<ThreadRecord>(raw.payload, ThreadRecord::kName));
      ViewedProcess& process = tree.processes_.back();
      if (process.threads.empty()) process.name = thread.attributes.name;
      process.threads.push_back(thread.tid);
    } else if (raw.type == RecordType::kForkedPages && last_memory) {
      tree.forked_[last_memory] = STASIS_TRY(decode<ForkedPagesRecord>(raw.payload, ForkedPagesRecord::kName));
    } else if (object.ref) {
      STASIS_TRY(tree.take_object(object.ref, object.type, raw));
    }
    last_memory = raw.type == RecordType::kMemory ? object.ref : ObjRef();
    object = {};
  }
  tree.find_holders();
  tree.find_mapped();
  tree.find_children();
  return tree;
}

Result<void> ImageTree::take_object(ObjRef ref, ObjType type, const RawRecord& raw) {
  if (type == kind::kMemory && raw.type == RecordType::kMemory) {
    memories_[ref] = STASIS_TRY(decode<MemoryRecord>(raw.payload, MemoryRecord::kName));
  } else if (type == kind::kFileTable && raw.type == RecordType::kFileTable) {
    tables_[ref] = STASIS_TRY(decode<FileTableRecord>(raw.payload, FileTableRecord::kName));
  } else if (type == kind::kFs && raw.type == RecordType::kFs) {
    places_[ref] = STASIS_TRY(decode<FsRecord>(raw.payload, FsRecord::kName));
  } else if (type >= kind::kPathFile) {
    ViewedFile file{
        .kind = kind_name(type), .path = {}, .behind = fmt::format("object {}", ref.value()), .holders = {}};
    for (const std::string_view field : {"path", "name", "link"}) {
      if (auto value = text_field(raw, field)) {
        file.path = *std::move(value);
        break;
      }
    }
    for (const std::string_view field : kBehind) {
      const auto value = text_field(raw, field);
      if (!value || !value->starts_with("object ")) continue;
      file.behind = *value;
      break;
    }
    behind_[file.behind].push_back(ref);
    files_[ref] = std::move(file);
  }
  return {};
}

void ImageTree::find_holders() {
  for (const ViewedProcess& process : processes_) {
    const auto table = tables_.find(process.record.file_table);
    if (table == tables_.end()) continue;
    for (const DescriptorRecord& descriptor : table->second.descriptors) {
      files_[descriptor.file].holders.push_back({process.record.pid, descriptor.fd});
    }
  }
}

// What a shared mapping is of; empty: of nothing that others could map.
std::string mapped_object(const MemoryRecord& memory, const VmaRecord& vma) {
  if (!vma.shared) return {};
  if (vma.backing == VmaBacking::kObject && vma.file < memory.objects.size())
    return fmt::format("object {}", memory.objects[vma.file].object.value());
  if (vma.backing == VmaBacking::kFile && vma.file < memory.files.size()) return memory.files[vma.file].path;
  return {};
}

void ImageTree::find_mapped() {
  for (const ViewedProcess& process : processes_) {
    const auto memory = memories_.find(process.record.memory);
    if (memory == memories_.end()) continue;
    for (const VmaRecord& vma : memory->second.vmas) {
      const std::string object = mapped_object(memory->second, vma);
      if (object.empty()) continue;
      std::vector<ImagePid>& pids = mapped_[object];
      if (pids.empty() || pids.back() != process.record.pid) pids.push_back(process.record.pid);
    }
  }
}

// Whose parent does not stand before it is at the top: nothing that an image claims makes a loop.
void ImageTree::find_children() {
  std::map<ImagePid, std::size_t> known;
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    const auto parent = known.find(processes_[i].record.parent);
    (parent == known.end() ? tops_ : processes_[parent->second].children).push_back(i);
    known.emplace(processes_[i].record.pid, i);
  }
}

std::vector<ImagePid> ImageTree::sharers(const ViewedProcess& process, ObjRef ProcessRecord::* object) const {
  std::vector<ImagePid> others;
  for (const ViewedProcess& other : processes_) {
    if (&other != &process && process.record.*object && other.record.*object == process.record.*object)
      others.push_back(other.record.pid);
  }
  return others;
}

// The first with that memory; 0: nobody has it.
ImagePid ImageTree::holder_of(ObjRef memory) const {
  const auto found = std::ranges::find(processes_, memory, [](const ViewedProcess& one) { return one.record.memory; });
  return found == processes_.end() ? ImagePid() : found->record.pid;
}

// Who has the other ends or openings of what is behind a file.
std::vector<Holder> ImageTree::others_behind(ObjRef file) const {
  std::vector<Holder> others;
  const auto found = behind_.find(files_.at(file).behind);
  if (found == behind_.end()) return others;
  for (const ObjRef other : found->second) {
    if (other == file) continue;
    const auto& holders = files_.at(other).holders;
    others.insert(others.end(), holders.begin(), holders.end());
  }
  return others;
}

std::vector<ImagePid> ImageTree::others_mapping(const ViewedProcess& process, const MemoryRecord& memory,
                                                const VmaRecord& vma) const {
  const auto found = mapped_.find(mapped_object(memory, vma));
  std::vector<ImagePid> others = vma.shared && found != mapped_.end() ? found->second : std::vector<ImagePid>();
  std::erase(others, process.record.pid);
  return others;
}

struct Share {
  const char* name;
  ObjRef ProcessRecord::* object;
};
constexpr std::array kShares = {
    Share{"memory", &ProcessRecord::memory}, Share{"descriptors", &ProcessRecord::file_table},
    Share{"working directory", &ProcessRecord::fs}, Share{"signal actions", &ProcessRecord::sighand}};

std::string protection(const VmaRecord& vma) {
  return {vma.prot & PROT_READ ? 'r' : '-', vma.prot & PROT_WRITE ? 'w' : '-', vma.prot & PROT_EXEC ? 'x' : '-',
          vma.shared ? 's' : 'p'};
}

std::string mapped_name(const MemoryRecord& memory, const VmaRecord& vma) {
  if (vma.backing == VmaBacking::kFile && vma.file < memory.files.size()) return memory.files[vma.file].path;
  return vma.name;
}

std::vector<Holder> other_holders(const ViewedFile& file, const Holder& self) {
  std::vector<Holder> others = file.holders;
  std::erase(others, self);
  return others;
}

void ImageTree::write_shares(std::string& out, const ViewedProcess& process, const std::string& indent) const {
  for (const Share& share : kShares) {
    const auto others = sharers(process, share.object);
    if (others.empty()) continue;
    out += fmt::format("{}  {} shared with", indent, share.name);
    for (const ImagePid other : others) out += fmt::format(" {}", other.value());
    out += '\n';
  }
  if (const auto forked = forked_.find(process.record.memory); forked != forked_.end()) {
    out += fmt::format("{}  {} bytes of pages as in {} (copy on write)\n", indent, total_length(forked->second.pages),
                       holder_of(forked->second.origin).value());
  }
  if (const auto place = places_.find(process.record.fs); place != places_.end())
    out += fmt::format("{}  in {}\n", indent, escape_text(place->second.working_directory));
}

// "  = 12:3, 14:5 and 7 more"; nothing of nobody.
void write_holders(std::string& out, std::string_view sign, const std::vector<Holder>& holders) {
  constexpr std::size_t kShown = 4;
  for (std::size_t i = 0; i < std::min(holders.size(), kShown); ++i) {
    out += i == 0 ? fmt::format("  {} ", sign) : ", ";
    out += fmt::format("{}:{}", holders[i].pid.value(), holders[i].fd);
  }
  if (holders.size() > kShown) out += fmt::format(" and {} more", holders.size() - kShown);
}

void ImageTree::write_descriptors(std::string& out, const ViewedProcess& process, const std::string& indent) const {
  const auto table = tables_.find(process.record.file_table);
  if (table == tables_.end()) return;
  for (const DescriptorRecord& descriptor : table->second.descriptors) {
    const ViewedFile& file = files_.at(descriptor.file);
    out += fmt::format("{}  fd {:<4} {:<16} {}", indent, descriptor.fd, file.kind, file.path);
    write_holders(out, "=", other_holders(file, {process.record.pid, descriptor.fd}));
    write_holders(out, "with", others_behind(descriptor.file));
    while (out.back() == ' ') out.pop_back();
    out += '\n';
  }
}

void ImageTree::write_mappings(std::string& out, const ViewedProcess& process, const std::string& indent) const {
  const auto memory = memories_.find(process.record.memory);
  if (memory == memories_.end()) return;
  for (const VmaRecord& vma : memory->second.vmas) {
    out += fmt::format("{}  {:x}-{:x} {} {}", indent, vma.start, vma.end, protection(vma),
                       escape_text(mapped_name(memory->second, vma)));
    const auto others = others_mapping(process, memory->second, vma);
    if (!others.empty()) out += "  with";
    for (const ImagePid other : others) out += fmt::format(" {}", other.value());
    while (out.back() == ' ') out.pop_back();
    out += '\n';
  }
}

void ImageTree::write_process(std::string& out, std::size_t index, const std::string& indent) const {
  const ViewedProcess& process = processes_[index];
  const ProcessRecord& record = process.record;
  if (record.zombie) {
    out += fmt::format("{}{} {} has ended (wait status {:#x})\n", indent, record.pid.value(), escape_text(record.name),
                       record.wait_status);
    return;
  }
  out += fmt::format("{}{} {}  session {}, group {}, {} thread{}{}{}\n", indent, record.pid.value(),
                     escape_text(process.name), record.session.value(), record.process_group.value(),
                     process.threads.size(), process.threads.size() == 1 ? "" : "s",
                     record.foreground ? ", in the foreground" : "", record.stopped ? ", stopped" : "");
  write_shares(out, process, indent);
  write_descriptors(out, process, indent);
  write_mappings(out, process, indent);
}

std::string ImageTree::text() const {
  std::uint64_t page_bytes = 0;
  for (const auto& [ref, memory] : memories_) page_bytes += memory.page_bytes;
  const std::int64_t seconds = environment_.realtime_ns / 1'000'000'000;
  std::string out =
      fmt::format("saved {:%Y-%m-%d %H:%M:%S} UTC on Linux {}: {} process{}, {} bytes of pages\n",
                  fmt::gmtime(static_cast<std::time_t>(seconds)), escape_text(environment_.kernel_release),
                  processes_.size(), processes_.size() == 1 ? "" : "es", page_bytes);
  if (environment_.parent_image) {
    out += fmt::format("only what differs from {} ({}), which has {} bytes of pages\n",
                       escape_text(environment_.parent_path), to_hex(*environment_.parent_image), inherited_bytes_);
  }
  // Depth first, without recursion: an image may claim any depth.
  struct Step {
    std::size_t index;
    std::size_t depth;
  };
  constexpr std::size_t kDeepest = 40;
  std::vector<Step> steps;
  const auto push = [&](const std::vector<std::size_t>& children, std::size_t depth) {
    for (auto at = children.rbegin(); at != children.rend(); ++at) steps.push_back({*at, depth});
  };
  push(tops_, 0);
  while (!steps.empty()) {
    const Step step = steps.back();
    steps.pop_back();
    write_process(out, step.index, std::string(2 * std::min(step.depth, kDeepest), ' '));
    push(processes_[step.index].children, step.depth + 1);
  }
  return out;
}

Json holders_json(const std::vector<Holder>& holders) {
  Json list = Json::array();
  for (const Holder& holder : holders) list.push_back({{"pid", holder.pid.value()}, {"fd", holder.fd}});
  return list;
}

Json ImageTree::descriptors_json(const ViewedProcess& process) const {
  Json descriptors = Json::array();
  const auto table = tables_.find(process.record.file_table);
  if (table == tables_.end()) return descriptors;
  for (const DescriptorRecord& descriptor : table->second.descriptors) {
    const ViewedFile& file = files_.at(descriptor.file);
    descriptors.push_back({{"fd", descriptor.fd},
                           {"kind", file.kind},
                           {"path", escape_text(file.path)},
                           {"close_on_exec", descriptor.close_on_exec},
                           {"object", descriptor.file.value()},
                           {"shared_with", holders_json(other_holders(file, {process.record.pid, descriptor.fd}))},
                           {"connected_with", holders_json(others_behind(descriptor.file))}});
  }
  return descriptors;
}

Json ImageTree::mappings_json(const ViewedProcess& process) const {
  Json mappings = Json::array();
  const auto memory = memories_.find(process.record.memory);
  if (memory == memories_.end()) return mappings;
  for (const VmaRecord& vma : memory->second.vmas) {
    Json shared = Json::array();
    for (const ImagePid other : others_mapping(process, memory->second, vma)) shared.push_back(other.value());
    mappings.push_back({{"start", fmt::format("{:#x}", vma.start)},
                        {"end", fmt::format("{:#x}", vma.end)},
                        {"protection", protection(vma)},
                        {"name", escape_text(mapped_name(memory->second, vma))},
                        {"shared_with", std::move(shared)}});
  }
  return mappings;
}

Json ImageTree::process_json(const ViewedProcess& process) const {
  const ProcessRecord& record = process.record;
  Json json{{"pid", record.pid.value()},
            {"parent", record.parent.value()},
            {"session", record.session.value()},
            {"process_group", record.process_group.value()},
            {"zombie", record.zombie}};
  if (record.zombie) {
    json["name"] = escape_text(record.name);
    json["wait_status"] = record.wait_status;
    return json;
  }
  json["name"] = escape_text(process.name);
  json["foreground"] = record.foreground;
  json["stopped"] = record.stopped;
  Json threads = Json::array();
  for (const ImagePid tid : process.threads) threads.push_back(tid.value());
  json["threads"] = std::move(threads);
  if (const auto place = places_.find(record.fs); place != places_.end())
    json["working_directory"] = escape_text(place->second.working_directory);
  Json shared = Json::object();
  for (const Share& share : kShares) {
    Json pids = Json::array();
    for (const ImagePid other : sharers(process, share.object)) pids.push_back(other.value());
    if (!pids.empty()) shared[share.name] = std::move(pids);
  }
  json["shared_with"] = std::move(shared);
  if (const auto forked = forked_.find(record.memory); forked != forked_.end()) {
    json["copy_on_write"] = {{"with", holder_of(forked->second.origin).value()},
                             {"bytes", total_length(forked->second.pages)}};
  }
  json["descriptors"] = descriptors_json(process);
  json["mappings"] = mappings_json(process);
  return json;
}

Json ImageTree::json() const {
  Json processes = Json::array();
  for (const ViewedProcess& process : processes_) processes.push_back(process_json(process));
  Json json{{"kernel", escape_text(environment_.kernel_release)}, {"realtime_ns", environment_.realtime_ns}};
  if (environment_.parent_image) {
    json["parent"] = {{"path", escape_text(environment_.parent_path)},
                      {"hash", to_hex(*environment_.parent_image)},
                      {"bytes", inherited_bytes_}};
  }
  json["processes"] = std::move(processes);
  return json;
}

}  // namespace

Result<std::string> tree_text(const ImageReader& image) { return STASIS_TRY(ImageTree::read(image)).text(); }
Result<nlohmann::ordered_json> tree_json(const ImageReader& image) { return STASIS_TRY(ImageTree::read(image)).json(); }

}  // namespace stasis
