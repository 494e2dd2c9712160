// SPDX-License-Identifier: Apache-2.0
#include "image/view.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "image/format.h"
#include "image/record_types.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

using Json = nlohmann::ordered_json;

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::byte byte : bytes) fmt::format_to(std::back_inserter(text), "{:02x}", static_cast<unsigned>(byte));
  return text;
}

std::string hex_cut(std::span<const std::byte> bytes) {
  constexpr std::size_t kShown = 32;
  const std::string shown = hex(bytes.first(std::min(bytes.size(), kShown)));
  return fmt::format("{}{} ({} bytes)", shown, bytes.size() > kShown ? "..." : "", bytes.size());
}

// Length of the UTF-8 sequence at the front, 0 if there is none (RFC 3629: no overlong forms, no surrogates).
std::size_t utf8_length(std::string_view text) {
  const auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto tail = [&](std::size_t i) { return (at(i) & 0xc0u) == 0x80u; };
  const unsigned lead = at(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return tail(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    if ((lead == 0xe0 && at(1) < 0xa0) || (lead == 0xed && at(1) > 0x9f)) return 0;
    return tail(1) && tail(2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if ((lead == 0xf0 && at(1) < 0x90) || (lead == 0xf4 && at(1) > 0x8f)) return 0;
    return tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

// ---- text -----------------------------------------------------------------------------------------------------------

// One "name: value" line per member, indented; lists of scalars on one line.
class TextVisitor final : public SchemaVisitor {
 public:
  explicit TextVisitor(std::string& out) : out_(out) {}

  void number(std::string_view name, std::uint64_t value, Show show) override {
    switch (show) {
      case Show::kDecimal:
        return line(name, fmt::to_string(value));
      case Show::kHex:
        return line(name, fmt::format("{:#x}", value));
      case Show::kOctal:
        return line(name, fmt::format("{:#o}", value));
    }
  }
  void signed_number(std::string_view name, std::int64_t value) override { line(name, fmt::to_string(value)); }
  void boolean(std::string_view name, bool value) override { line(name, value ? "yes" : "no"); }
  void enumerator(std::string_view name, std::uint64_t value, std::string_view label) override {
    line(name, label.empty() ? fmt::to_string(value) : std::string(label));
  }
  void objref(std::string_view name, ObjRef value) override {
    line(name, value ? fmt::format("object {}", value.value()) : "none");
  }
  void text(std::string_view name, std::string_view value) override { line(name, '"' + escape_text(value) + '"'); }
  void bytes(std::string_view name, std::span<const std::byte> value) override { line(name, hex_cut(value)); }
  void absent(std::string_view name) override { line(name, "-"); }
  void begin_struct(std::string_view name) override {
    line(name.empty() ? "-" : name, "");
    ++depth_;
  }
  void end_struct() override { --depth_; }
  void begin_list(std::string_view name, std::size_t count) override {
    line(name, fmt::format("{} element{}", count, count == 1 ? "" : "s"));
    ++depth_;
  }
  void end_list() override { --depth_; }

 private:
  void line(std::string_view name, std::string_view value) {
    out_.append(depth_ * 2, ' ');
    out_.append(name.empty() ? "-" : name);
    if (name != "-") out_.append(name.empty() ? " " : ": ");
    out_.append(value);
    while (!out_.empty() && out_.back() == ' ') out_.pop_back();
    out_.push_back('\n');
  }

  std::string& out_;
  std::size_t depth_ = 1;
};

// ---- JSON -----------------------------------------------------------------------------------------------------------

Json json_text(std::string_view text) {
  if (is_utf8(text)) return Json(std::string(text));
  return Json{{"escaped", escape_text(text)}};
}

class JsonVisitor final : public SchemaVisitor {
 public:
  JsonVisitor() : stack_{Json::object()}, names_{std::string()} {}

  void number(std::string_view name, std::uint64_t value, Show show) override {
    if (show == Show::kHex) return put(name, fmt::format("{:#x}", value));
    if (show == Show::kOctal) return put(name, fmt::format("{:#o}", value));
    put(name, value);
  }
  void signed_number(std::string_view name, std::int64_t value) override { put(name, value); }
  void boolean(std::string_view name, bool value) override { put(name, value); }
  void enumerator(std::string_view name, std::uint64_t value, std::string_view label) override {
    if (label.empty()) return put(name, value);
    put(name, std::string(label));
  }
  void objref(std::string_view name, ObjRef value) override { put(name, value ? Json(value.value()) : Json()); }
  void text(std::string_view name, std::string_view value) override { put(name, json_text(value)); }
  void bytes(std::string_view name, std::span<const std::byte> value) override { put(name, hex(value)); }
  void absent(std::string_view name) override { put(name, nullptr); }
  void begin_struct(std::string_view name) override { push(name, Json::object()); }
  void end_struct() override { pop(); }
  void begin_list(std::string_view name, std::size_t) override { push(name, Json::array()); }
  void end_list() override { pop(); }

  Json take() { return std::move(stack_.front()); }

 private:
  void put(std::string_view name, Json value) {
    Json& top = stack_.back();
    if (top.is_array()) {
      top.push_back(std::move(value));
    } else {
      top[std::string(name)] = std::move(value);
    }
  }
  void push(std::string_view name, Json value) {
    stack_.push_back(std::move(value));
    names_.emplace_back(name);
  }
  void pop() {
    Json value = std::move(stack_.back());
    const std::string name = std::move(names_.back());
    stack_.pop_back();
    names_.pop_back();
    put(name, std::move(value));
  }

  std::vector<Json> stack_;
  std::vector<std::string> names_;
};

// ---- both -----------------------------------------------------------------------------------------------------------

const RecordInfo* find(RecordType type, RecordRegistry records) {
  for (const RecordRegistry registry : {records, framing_records()}) {
    const auto row = std::ranges::find(registry, type, &RecordInfo::type);
    if (row != registry.end()) return &*row;
  }
  return nullptr;
}

std::string object_name(ObjType type, const ViewOptions& options) {
  const auto row = std::ranges::find(options.object_names, type, &EnumName<ObjType>::value);
  return row == options.object_names.end() ? fmt::format("type {}", type) : std::string(row->name);
}

// What differs between the two formats, a record or chunk at a time.
class Printer {
 public:
  virtual ~Printer() = default;
  virtual void begin() = 0;
  virtual Result<void> record(const RawRecord& record) = 0;
  virtual void chunk(const ChunkInfo& chunk) = 0;
  virtual void end(const ImageHash& image_hash) = 0;
};

class TextPrinter final : public Printer {
 public:
  TextPrinter(const ViewOptions& options, const ViewOutput& out) : options_(options), out_(out) {}

  void begin() override { out_(fmt::format("stasis image, format {}\n", kImageVersion)); }
  Result<void> record(const RawRecord& record) override {
    if (record.type == RecordType::kObject) {
      const auto object = STASIS_TRY(decode<ObjectRecord>(record.payload, ObjectRecord::kName));
      out_(fmt::format("object {}: {}\n", object.ref.value(), object_name(object.type, options_)));
      return {};
    }
    const RecordInfo* info = find(record.type, options_.records);
    if (info == nullptr) {
      out_(fmt::format("unknown {}: {}\n", to_string(record.type), hex_cut(record.payload)));
      return {};
    }
    std::string text(info->name);
    text += '\n';
    TextVisitor visitor(text);
    STASIS_TRY(info->view(record.payload, visitor));
    out_(text);
    return {};
  }
  void chunk(const ChunkInfo& chunk) override {
    std::string text("chunk\n");
    TextVisitor visitor(text);
    visit(chunk, visitor);
    out_(text);
  }
  void end(const ImageHash& image_hash) override { out_(fmt::format("image {}\n", to_hex(image_hash))); }

 private:
  const ViewOptions& options_;
  const ViewOutput& out_;
};

class JsonPrinter final : public Printer {
 public:
  JsonPrinter(const ViewOptions& options, const ViewOutput& out) : options_(options), out_(out) {}

  void begin() override { out_(fmt::format("{{\"format\": {}, \"records\": [", kImageVersion)); }
  Result<void> record(const RawRecord& record) override {
    Json json;
    const RecordInfo* info = find(record.type, options_.records);
    if (record.type == RecordType::kObject) {
      const auto object = STASIS_TRY(decode<ObjectRecord>(record.payload, ObjectRecord::kName));
      json = {{"record", "object"}, {"ref", object.ref.value()}, {"type", object_name(object.type, options_)}};
    } else if (info == nullptr) {
      json = {{"record", nullptr},
              {"type", static_cast<std::uint32_t>(record.type) & ~kIgnorableRecord},
              {"bytes", hex(record.payload)}};
    } else {
      JsonVisitor visitor;
      STASIS_TRY(info->view(record.payload, visitor));
      json = {{"record", std::string(info->name)}, {"fields", visitor.take()}};
    }
    element(json);
    return {};
  }
  void chunk(const ChunkInfo& chunk) override {
    begin_chunks();
    JsonVisitor visitor;
    visit(chunk, visitor);
    element(visitor.take());
  }
  void end(const ImageHash& image_hash) override {
    begin_chunks();
    out_(fmt::format("\n], \"image\": \"{}\"}}\n", to_hex(image_hash)));
  }

 private:
  void element(const Json& json) {
    out_(first_ ? "\n" : ",\n");
    first_ = false;
    out_(json.dump());
  }
  void begin_chunks() {
    if (in_chunks_) return;
    in_chunks_ = true;
    first_ = true;
    out_("\n], \"chunks\": [");
  }

  const ViewOptions& options_;
  const ViewOutput& out_;
  bool first_ = true;
  bool in_chunks_ = false;
};

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string escape_text(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto first = static_cast<unsigned char>(text.front());
    if (first == '\\' || first == '"') {
      out += {'\\', text.front()};
    } else if (length == 0 || first < 0x20 || first == 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", first);
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

std::string view_fields_text(const RecordInfo& info, std::span<const std::byte> payload) {
  std::string text;
  TextVisitor visitor(text);
  if (auto viewed = info.view(payload, visitor); !viewed) return viewed.error().to_string();
  return text;
}

Result<void> view_image(ImageReader& reader, const ViewOptions& options, const ViewOutput& out) {
  const std::unique_ptr<Printer> printer = options.format == ViewFormat::kText
                                               ? std::unique_ptr<Printer>(std::make_unique<TextPrinter>(options, out))
                                               : std::make_unique<JsonPrinter>(options, out);
  printer->begin();
  for (std::size_t i = 0; i < reader.record_count(); ++i) {
    if (reader.record(i).type != RecordType::kPadding) STASIS_TRY(printer->record(reader.record(i)));
  }
  if (reader.seekable()) {
    for (const ChunkInfo& chunk : reader.chunks()) printer->chunk(chunk);
  } else {
    std::vector<std::byte> buffer;
    while (const auto chunk = STASIS_TRY(reader.next_chunk(buffer))) printer->chunk(*chunk);
  }
  STASIS_TRY(reader.finish());
  printer->end(reader.image_hash());
  return {};
}

Result<void> inspect_image(const std::string& path, const ViewOptions& options, const ViewOutput& out) {
  ImageReader reader = STASIS_TRY(ImageReader::open(path, {}));
  return view_image(reader, options, out);
}

}  // namespace stasis
