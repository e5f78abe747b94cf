#include "engine/base/json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <unordered_set>
#include <utility>
#include <vector>

#include "fmt/format.h"

namespace hostler {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxTreeBytes = 128 << 20;
constexpr size_t kMaxReasonBytes = 200;
// The outermost object of a request has many keys; room for them all at once
// spares copying what is below it.
constexpr size_t kOutermostKeys = 64;

// What most parsers make of a key that stands twice.
void KeepLastOfEachKey(Json::object_t* object) {
  std::vector<std::string_view> names;
  names.reserve(object->size());
  for (const auto& entry : *object) names.push_back(entry.first);
  std::sort(names.begin(), names.end());
  if (std::adjacent_find(names.begin(), names.end()) == names.end()) return;

  std::unordered_set<std::string_view> seen;
  std::vector<size_t> kept;
  for (size_t i = object->size(); i-- > 0;) {
    if (seen.insert(object->begin()[i].first).second) kept.push_back(i);
  }
  Json::object_t result;
  result.reserve(kept.size());
  for (auto i = kept.rbegin(); i != kept.rend(); ++i) {
    auto& [name, value] = object->begin()[*i];
    result.emplace_back(name, std::move(value));
  }
  *object = std::move(result);
}

// Builds the tree like nlohmann's own builder, but counts depth and bytes, and
// appends keys without a search for an earlier one, which would be quadratic.
class TreeBuilder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Add(nullptr, 0); }
  bool boolean(bool value) override { return Add(value, 0); }
  bool number_integer(number_integer_t value) override { return Add(value, 0); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value, 0); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value, 0); }
  bool string(string_t& value) override {
    const size_t bytes = sizeof(string_t) + value.size();
    return Add(std::move(value), bytes);
  }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override {
    if (!Open(Json::object())) return false;
    if (open_.size() == 1) Object().reserve(kOutermostKeys);
    return true;
  }
  bool key(string_t& name) override {
    if (!Count(sizeof(Json::object_t::value_type) + name.size())) return false;
    Object().emplace_back(std::move(name), Json());
    return true;
  }
  bool end_object() override {
    KeepLastOfEachKey(&Object());
    return Close();
  }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) override {
    std::string_view reason = e.what();
    if (size_t end = reason.find("] "); end != reason.npos) reason.remove_prefix(end + 2);
    reason = reason.substr(0, reason.find("; last read"));
    error_ = fmt::format("the body is not valid JSON: {}", reason.substr(0, kMaxReasonBytes));
    return false;
  }

  const std::string& error() const { return error_; }
  Json TakeRoot() { return std::move(root_); }

 private:
  Json::object_t& Object() { return *open_.back()->get_ptr<Json::object_t*>(); }

  bool Count(size_t bytes) {
    bytes_ += bytes;
    if (bytes_ <= kMaxTreeBytes) return true;
    error_ = "the body holds too many JSON values";
    return false;
  }

  // Puts `value` where the parser stands; null when it is too much.
  Json* Place(Json value, size_t bytes) {
    if (!Count(sizeof(Json) + bytes)) return nullptr;
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      auto& items = *parent.get_ptr<Json::array_t*>();
      items.push_back(std::move(value));
      return &items.back();
    }
    Json& to = Object().back().second;
    to = std::move(value);
    return &to;
  }

  template <typename T>
  bool Add(T&& value, size_t bytes) {
    return Place(Json(std::forward<T>(value)), bytes) != nullptr;
  }

  bool Open(Json container) {
    if (open_.size() >= kMaxDepth) {
      error_ = fmt::format("the body nests JSON deeper than {} levels", kMaxDepth);
      return false;
    }
    Json* placed = Place(std::move(container), 2 * sizeof(Json));
    if (placed == nullptr) return false;
    open_.push_back(placed);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  // A container's parent does not grow while it is open, so these stay valid.
  std::vector<Json*> open_;
  size_t bytes_ = 0;
  std::string error_;
};

// The length of the well-formed UTF-8 sequence at the start of `text`, or 0.
size_t SequenceLength(std::string_view text) {
  const auto byte = [text](size_t i) { return i < text.size() ? uint8_t(text[i]) : 0; };
  const auto continues = [](uint8_t b) { return (b & 0xc0) == 0x80; };
  const uint8_t a = byte(0), b = byte(1);
  if (a < 0x80) return 1;
  if (a < 0xc2 || a > 0xf4 || !continues(b)) return 0;
  if (a < 0xe0) return 2;
  if (!continues(byte(2))) return 0;
  if (a < 0xf0) {
    const bool overlong = a == 0xe0 && b < 0xa0;
    const bool surrogate = a == 0xed && b >= 0xa0;
    return overlong || surrogate ? 0 : 3;
  }
  const bool overlong = a == 0xf0 && b < 0x90;
  const bool too_large = a == 0xf4 && b >= 0x90;
  return overlong || too_large || !continues(byte(3)) ? 0 : 4;
}

void AppendEscaped(char c, std::string* out) {
  switch (c) {
    case '"':
      *out += "\\\"";
      return;
    case '\\':
      *out += "\\\\";
      return;
    case '\n':
      *out += "\\n";
      return;
    case '\r':
      *out += "\\r";
      return;
    case '\t':
      *out += "\\t";
      return;
    default:
      fmt::format_to(std::back_inserter(*out), "\\u{:04x}", int(c));
      return;
  }
}

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text) {
  TreeBuilder builder;
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(builder.error());
  }
  return builder.TakeRoot();
}

const Json* FindKey(const Json& object, std::string_view key) {
  const auto* entries = object.get_ptr<const Json::object_t*>();
  if (entries == nullptr) return nullptr;
  const auto found = std::find_if(entries->begin(), entries->end(),
                                  [key](const auto& entry) { return entry.first == key; });
  return found == entries->end() ? nullptr : &found->second;
}

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  size_t plain = 0;  // start of what can be copied as it stands
  for (size_t i = 0; i < text.size();) {
    const uint8_t c = uint8_t(text[i]);
    if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
      ++i;
      continue;
    }
    if (c >= 0x80) {
      if (const size_t length = SequenceLength(text.substr(i)); length > 0) {
        i += length;
        continue;
      }
    }
    out->append(text, plain, i - plain);
    if (c >= 0x80) {
      *out += "\xef\xbf\xbd";
    } else {
      AppendEscaped(char(c), out);
    }
    plain = ++i;
  }
  out->append(text, plain, text.size() - plain);
  out->push_back('"');
}

void AppendJsonLogprob(float value, std::string* out) {
  fmt::format_to(std::back_inserter(*out), "{}", std::isfinite(value) ? value : -9999.0f);
}

}  // namespace hostler
