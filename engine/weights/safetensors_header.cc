#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "engine/base/status.h"
#include "engine/weights/mapped_source.h"
#include "engine/weights/safetensors.h"

namespace hostler {
namespace {

constexpr size_t kLengthPrefixBytes = 8;
constexpr size_t kMaxRank = 16;

std::optional<DType> DTypeFromSafetensors(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, DType>, 11> kTable = {{
      {"F64", DType::kF64},
      {"F32", DType::kF32},
      {"F16", DType::kF16},
      {"BF16", DType::kBF16},
      {"F8_E4M3", DType::kF8E4M3},
      {"I64", DType::kI64},
      {"I32", DType::kI32},
      {"I16", DType::kI16},
      {"I8", DType::kI8},
      {"U8", DType::kU8},
      {"BOOL", DType::kBool},
  }};
  for (const auto& [key, dtype] : kTable) {
    if (key == name) return dtype;
  }
  return std::nullopt;
}

// Walks JSON objects nested two deep without building them in memory: a
// hostile file costs no more than its own size. Subclasses see the keys of
// both objects and the values below them; what they do not want, they Skip().
class ObjectWalker : public nlohmann::json::json_sax_t {
 public:
  explicit ObjectWalker(const std::string& path) : path_(path) {}

  absl::Status Walk(std::span<const std::byte> json) {
    const char* begin = reinterpret_cast<const char*>(json.data());
    const bool complete = nlohmann::json::sax_parse(begin, begin + json.size(),
                                                    static_cast<nlohmann::json::json_sax_t*>(this));
    if (!complete && status_.ok()) Fail("not valid JSON");
    return status_;
  }

 protected:
  // Remembers the error; returns the `false` that ends the walk.
  bool Fail(std::string_view why, absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const std::string where =
        outer_key_.empty() ? "" : fmt::format("tensor {}: ", Quoted(outer_key_));
    status_ = absl::Status(code, fmt::format("{}: {}{}", path_, where, why));
    return false;
  }

  virtual bool OnOuterKey() = 0;     // outer_key_ is new
  virtual bool OnInnerObject() = 0;  // { as the value of outer_key_
  virtual bool OnInnerEnd() = 0;     // its }
  virtual bool OnInnerKey() = 0;     // inner_key_ is new
  virtual bool OnString(std::string& value) = 0;
  virtual bool OnInteger(uint64_t value) = 0;
  virtual bool OnArray() = 0;                       // [ as the value of inner_key_
  virtual bool OnOther(std::string_view what) = 0;  // a value of no other kind

  // The value that comes next is walked over in silence.
  void Skip() { skipping_ = true; }

  const std::string path_;
  std::string outer_key_;
  std::string inner_key_;
  int depth_ = 0;  // open objects and arrays

 private:
  bool Scalar(auto&& handle) {
    if (skipping_) {
      if (skip_depth_ == 0) skipping_ = false;
      return true;
    }
    if (depth_ == 0) return Fail("not a JSON object");
    return handle();
  }
  bool Open(auto&& handle) {
    if (skipping_) {
      ++skip_depth_;
      return true;
    }
    ++depth_;
    return handle();
  }
  bool Close(auto&& handle) {
    if (skipping_) {
      if (--skip_depth_ == 0) skipping_ = false;
      return true;
    }
    --depth_;
    return handle();
  }

  bool null() override {
    return Scalar([&] { return OnOther("null"); });
  }
  bool boolean(bool) override {
    return Scalar([&] { return OnOther("a boolean"); });
  }
  bool number_integer(number_integer_t) override {
    return Scalar([&] { return OnOther("a negative number"); });
  }
  bool number_unsigned(number_unsigned_t value) override {
    return Scalar([&] { return OnInteger(value); });
  }
  bool number_float(number_float_t, const string_t&) override {
    return Scalar([&] { return OnOther("a number that is no 64-bit integer"); });
  }
  bool string(string_t& value) override {
    return Scalar([&] { return OnString(value); });
  }
  bool binary(binary_t&) override { return Fail("not valid JSON"); }
  bool start_object(size_t) override {
    return Open([&] {
      if (depth_ == 1) return true;
      return depth_ == 2 ? OnInnerObject() : OnOther("an object");
    });
  }
  bool end_object() override {
    return Close([&] {
      if (depth_ != 1) return true;
      const bool go_on = OnInnerEnd();
      outer_key_.clear();
      return go_on;
    });
  }
  bool start_array(size_t) override {
    return Open([&] {
      if (depth_ == 1) return Fail("not a JSON object");
      return depth_ == 3 ? OnArray() : OnOther("an array");
    });
  }
  bool end_array() override {
    return Close([] { return true; });
  }
  bool key(string_t& name) override {
    if (skipping_) return true;
    if (depth_ == 1) {
      outer_key_ = std::move(name);
      return OnOuterKey();
    }
    inner_key_ = std::move(name);
    return OnInnerKey();
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Fail(fmt::format("not valid JSON at byte {} of it", position));
  }

  absl::Status status_;
  bool skipping_ = false;
  int skip_depth_ = 0;
};

class HeaderWalker : public ObjectWalker {
 public:
  // `data_begin`: where in the file the tensors' bytes start.
  HeaderWalker(const std::string& path, uint64_t data_begin, uint64_t data_bytes)
      : ObjectWalker(path), data_begin_(data_begin), data_bytes_(data_bytes) {}

  std::vector<TensorInfo> TakeTensors() { return std::move(tensors_); }

 private:
  bool OnOuterKey() override {
    if (!names_.insert(outer_key_).second) return Fail("occurs twice in the header");
    if (outer_key_ == "__metadata__") {
      Skip();
      outer_key_.clear();
    }
    return true;
  }

  bool OnInnerObject() override {
    dtype_.reset();
    shape_.reset();
    offsets_.reset();
    return true;
  }

  bool OnInnerKey() override {
    const bool again = (inner_key_ == "dtype" && dtype_) || (inner_key_ == "shape" && shape_) ||
                       (inner_key_ == "data_offsets" && offsets_);
    if (again) return Fail(fmt::format("{} occurs twice", inner_key_));
    if (inner_key_ != "dtype" && inner_key_ != "shape" && inner_key_ != "data_offsets") Skip();
    return true;
  }

  bool OnArray() override {
    if (inner_key_ == "shape") {
      shape_.emplace();
    } else if (inner_key_ == "data_offsets") {
      offsets_.emplace();
    } else {
      return OnOther("an array");
    }
    return true;
  }

  bool OnString(std::string& value) override {
    if (depth_ != 2 || inner_key_ != "dtype") return OnOther("a string");
    dtype_ = std::move(value);
    return true;
  }

  bool OnInteger(uint64_t value) override {
    if (depth_ != 3) return OnOther("a number");
    if (inner_key_ == "shape") {
      if (value > static_cast<uint64_t>(INT64_MAX)) return Fail("shape overflows");
      if (shape_->size() == kMaxRank) {
        return Fail(fmt::format("shape has more than {} dimensions", kMaxRank));
      }
      shape_->push_back(static_cast<int64_t>(value));
    } else {
      if (offsets_->size() == 2) return Fail("data_offsets has more than two values");
      offsets_->push_back(value);
    }
    return true;
  }

  bool OnOther(std::string_view what) override {
    if (depth_ == 1 || inner_key_.empty()) {
      return Fail(fmt::format("has {} where an object belongs", what));
    }
    return Fail(fmt::format("{} has {} where {} belongs", inner_key_, what,
                            inner_key_ == "dtype" ? "a string" : "a list of sizes"));
  }

  bool OnInnerEnd() override {
    if (!dtype_) return Fail("has no dtype");
    if (!shape_) return Fail("has no shape");
    if (!offsets_) return Fail("has no data_offsets");
    if (offsets_->size() != 2) return Fail("data_offsets does not have two values");
    const std::optional<DType> dtype = DTypeFromSafetensors(*dtype_);
    if (!dtype) {
      return Fail(fmt::format("has the unknown dtype {}", Quoted(*dtype_)),
                  absl::StatusCode::kUnimplemented);
    }
    const uint64_t begin = (*offsets_)[0];
    const uint64_t end = (*offsets_)[1];
    if (begin > end) return Fail(fmt::format("data_offsets [{}, {}] are reversed", begin, end));
    if (end > data_bytes_) {
      return Fail(
          fmt::format("data_offsets [{}, {}] go past the end of the file, which has {} "
                      "bytes of data",
                      begin, end, data_bytes_));
    }
    uint64_t bytes = static_cast<uint64_t>(GetDTypeInfo(*dtype).block_bytes);
    for (int64_t dim : *shape_) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes)) {
        return Fail("shape overflows");
      }
    }
    TensorInfo info{outer_key_, *dtype, std::move(*shape_), 0, data_begin_ + begin, end - begin};
    if (bytes != info.bytes) {
      return Fail(fmt::format("has {} bytes, but {} of shape {} take {}", info.bytes, *dtype_,
                              info.ShapeString(), bytes));
    }
    tensors_.push_back(std::move(info));
    inner_key_.clear();
    return true;
  }

  const uint64_t data_begin_;
  const uint64_t data_bytes_;
  std::unordered_set<std::string> names_;
  std::vector<TensorInfo> tensors_;

  // The entry being read.
  std::optional<std::string> dtype_;
  std::optional<std::vector<int64_t>> shape_;
  std::optional<std::vector<uint64_t>> offsets_;
};

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name.find("..") == std::string_view::npos &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

class IndexWalker : public ObjectWalker {
 public:
  using ObjectWalker::ObjectWalker;

  bool found() const { return found_; }
  std::vector<std::pair<std::string, std::string>> TakeEntries() { return std::move(entries_); }

 private:
  bool OnOuterKey() override {
    const bool is_map = outer_key_ == "weight_map";
    outer_key_.clear();
    if (!is_map) {
      Skip();
      return true;
    }
    if (found_) return Fail("weight_map occurs twice");
    found_ = true;
    return true;
  }
  bool OnInnerObject() override { return true; }
  bool OnInnerEnd() override { return true; }
  bool OnInnerKey() override {
    outer_key_ = inner_key_;  // what Error() names
    if (!names_.insert(inner_key_).second) return Fail("occurs twice in weight_map");
    return true;
  }
  bool OnString(std::string& value) override {
    if (depth_ != 2) return OnOther("a string");
    if (!IsPlainFileName(value)) {
      return Fail(fmt::format("its shard {} is not a plain file name", Quoted(value)));
    }
    entries_.emplace_back(inner_key_, std::move(value));
    return true;
  }
  bool OnInteger(uint64_t) override { return OnOther("a number"); }
  bool OnArray() override { return OnOther("an array"); }
  bool OnOther(std::string_view what) override {
    if (depth_ == 1 || inner_key_.empty()) return Fail("weight_map is not an object");
    return Fail(fmt::format("weight_map has {} where a file name belongs", what));
  }

  bool found_ = false;
  std::unordered_set<std::string> names_;
  std::vector<std::pair<std::string, std::string>> entries_;
};

}  // namespace

absl::StatusOr<std::vector<TensorInfo>> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                               const std::string& path) {
  if (file.size() < kLengthPrefixBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{}: truncated: {} bytes, too few for a safetensors file", path, file.size()));
  }
  uint64_t header_bytes = 0;
  for (size_t i = kLengthPrefixBytes; i-- > 0;) {
    header_bytes = header_bytes << 8 | std::to_integer<uint64_t>(file[i]);
  }
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{}: its header would have {} bytes, over the limit of {}; not a safetensors "
                    "file?",
                    path, header_bytes, kMaxSafetensorsHeaderBytes));
  }
  const uint64_t rest = file.size() - kLengthPrefixBytes;
  if (header_bytes > rest) {
    return absl::InvalidArgumentError(
        fmt::format("{}: truncated: the header has {} bytes, but only {} follow its length", path,
                    header_bytes, rest));
  }
  const std::span<const std::byte> json = file.subspan(kLengthPrefixBytes, header_bytes);
  if (json.empty() || json[0] != std::byte{'{'}) {
    return absl::InvalidArgumentError(
        fmt::format("{}: its header is not a JSON object; not a safetensors file?", path));
  }
  HeaderWalker walker(path, kLengthPrefixBytes + header_bytes, rest - header_bytes);
  HOSTLER_RETURN_IF_ERROR(walker.Walk(json));
  std::vector<TensorInfo> tensors = walker.TakeTensors();
  HOSTLER_RETURN_IF_ERROR(SortAndCheckOverlaps(&tensors, path));
  return tensors;
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseSafetensorsIndex(
    std::span<const std::byte> json, const std::string& path) {
  if (json.size() > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(fmt::format("{}: {} bytes, over the limit of {}", path,
                                                  json.size(), kMaxSafetensorsHeaderBytes));
  }
  IndexWalker walker(path);
  HOSTLER_RETURN_IF_ERROR(walker.Walk(json));
  if (!walker.found()) return absl::InvalidArgumentError(fmt::format("{}: no weight_map", path));
  return walker.TakeEntries();
}

}  // namespace hostler
