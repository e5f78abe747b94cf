#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "engine/base/status.h"
#include "engine/weights/gguf.h"

namespace hostler {
namespace {

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxNameBytes = 65535;
constexpr uint32_t kMaxDimensions = 4;
constexpr int kMaxNesting = 4;
// What the smallest entries take, to judge a count before anything is read.
constexpr uint64_t kLeastKeyBytes = 8 + 4 + 1;
constexpr uint64_t kLeastTensorBytes = 8 + 4 + 4 + 8;

// Types by their numbers in the file. Those without a DType are known by name only.
struct TensorType {
  uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;
};

const TensorType* FindTensorType(uint32_t number) {
  static constexpr std::array<TensorType, 33> kTable = {{
      {0, "F32", DType::kF32},        {1, "F16", DType::kF16},       {2, "Q4_0", DType::kQ4_0},
      {3, "Q4_1", DType::kQ4_1},      {6, "Q5_0", DType::kQ5_0},     {7, "Q5_1", DType::kQ5_1},
      {8, "Q8_0", DType::kQ8_0},      {9, "Q8_1", std::nullopt},     {10, "Q2_K", DType::kQ2_K},
      {11, "Q3_K", DType::kQ3_K},     {12, "Q4_K", DType::kQ4_K},    {13, "Q5_K", DType::kQ5_K},
      {14, "Q6_K", DType::kQ6_K},     {15, "Q8_K", std::nullopt},    {16, "IQ2_XXS", std::nullopt},
      {17, "IQ2_XS", std::nullopt},   {18, "IQ3_XXS", std::nullopt}, {19, "IQ1_S", std::nullopt},
      {20, "IQ4_NL", DType::kIQ4_NL}, {21, "IQ3_S", std::nullopt},   {22, "IQ2_S", std::nullopt},
      {23, "IQ4_XS", DType::kIQ4_XS}, {24, "I8", DType::kI8},        {25, "I16", DType::kI16},
      {26, "I32", DType::kI32},       {27, "I64", DType::kI64},      {28, "F64", DType::kF64},
      {29, "IQ1_M", std::nullopt},    {30, "BF16", DType::kBF16},    {34, "TQ1_0", DType::kTQ1_0},
      {35, "TQ2_0", DType::kTQ2_0},   {39, "MXFP4", DType::kMXFP4},  {40, "NVFP4", std::nullopt},
  }};
  for (const TensorType& type : kTable) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

// Bytes of one value; 0 for strings and arrays.
size_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

// Reads a header once from front to back. Each byte is looked at once: the file
// may change underneath.
class Parser {
 public:
  Parser(std::span<const std::byte> file, const std::string& path)
      : file_(file), limit_(std::min(file.size(), kMaxGgufHeaderBytes)), path_(path) {}

  absl::StatusOr<GgufHeader> Parse() {
    header_.metadata = GgufMetadata(path_);
    uint64_t tensors = 0;
    uint64_t keys = 0;
    HOSTLER_RETURN_IF_ERROR(ReadPreamble(&tensors, &keys));
    for (uint64_t i = 0; i < keys; ++i) HOSTLER_RETURN_IF_ERROR(ReadKey());
    header_.metadata_end = at_;
    where_.clear();
    HOSTLER_RETURN_IF_ERROR(ReadAlignment());
    header_.tensors.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) HOSTLER_RETURN_IF_ERROR(ReadTensor());
    HOSTLER_RETURN_IF_ERROR(PlaceTensors());
    HOSTLER_RETURN_IF_ERROR(SortAndCheckOverlaps(&header_.tensors, path_));
    return std::move(header_);
  }

 private:
  absl::Status Fail(std::string_view why,
                    absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    return absl::Status(code, fmt::format("{}: {}{}", path_, where_, why));
  }
  absl::Status CutOff() const {
    if (limit_ < file_.size()) {
      return Fail(fmt::format("its header goes past the limit of {} bytes", kMaxGgufHeaderBytes));
    }
    return Fail(fmt::format("truncated: its header goes past the end, at byte {}", file_.size()));
  }

  size_t left() const { return limit_ - at_; }

  template <typename T>
  absl::Status Take(T* value) {
    if (left() < sizeof(T)) return CutOff();
    std::memcpy(value, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return absl::OkStatus();
  }
  absl::Status TakeBytes(uint64_t bytes, std::string* out) {
    if (left() < bytes) return CutOff();
    out->assign(reinterpret_cast<const char*>(file_.data()) + at_, bytes);
    at_ += bytes;
    return absl::OkStatus();
  }
  absl::Status TakeString(std::string* out) {
    uint64_t bytes = 0;
    HOSTLER_RETURN_IF_ERROR(Take(&bytes));
    return TakeBytes(bytes, out);
  }
  absl::Status TakeName(std::string* out) {
    HOSTLER_RETURN_IF_ERROR(TakeString(out));
    if (out->size() > kMaxNameBytes) {
      return Fail(fmt::format("a name of {} bytes, over the limit of {}: {}", out->size(),
                              kMaxNameBytes, Quoted(*out)));
    }
    return absl::OkStatus();
  }
  absl::Status TakeType(GgufType* type) {
    uint32_t number = 0;
    HOSTLER_RETURN_IF_ERROR(Take(&number));
    if (number > static_cast<uint32_t>(GgufType::kF64)) {
      return Fail(fmt::format("has the unknown value type {}", number));
    }
    *type = static_cast<GgufType>(number);
    return absl::OkStatus();
  }

  absl::Status ReadPreamble(uint64_t* tensors, uint64_t* keys) {
    std::array<char, 4> magic;
    uint32_t version = 0;
    HOSTLER_RETURN_IF_ERROR(Take(&magic));
    if (std::string_view(magic.data(), magic.size()) != "GGUF") return Fail("not a GGUF file");
    HOSTLER_RETURN_IF_ERROR(Take(&version));
    if (version != 0 && (version & 0xffff) == 0) {
      return Fail("a big-endian GGUF file; only little-endian ones are supported",
                  absl::StatusCode::kUnimplemented);
    }
    if (version != 2 && version != 3) {
      return Fail(fmt::format("GGUF version {}; only 2 and 3 are supported", version),
                  absl::StatusCode::kUnimplemented);
    }
    HOSTLER_RETURN_IF_ERROR(Take(tensors));
    HOSTLER_RETURN_IF_ERROR(Take(keys));
    if (*keys > kMaxGgufKeys || *keys > left() / kLeastKeyBytes) {
      return Fail(fmt::format("cannot have {} metadata keys", *keys));
    }
    if (*tensors > kMaxGgufTensors || *tensors > left() / kLeastTensorBytes) {
      return Fail(fmt::format("cannot have {} tensors", *tensors));
    }
    return absl::OkStatus();
  }

  absl::Status ReadKey() {
    where_.clear();
    std::string key;
    HOSTLER_RETURN_IF_ERROR(TakeName(&key));
    where_ = fmt::format("metadata {}: ", Quoted(key));
    GgufMetadata::Value value;
    HOSTLER_RETURN_IF_ERROR(TakeType(&value.type));
    uint64_t count = 1;
    if (value.type == GgufType::kArray) {
      value.list = true;
      HOSTLER_RETURN_IF_ERROR(TakeType(&value.type));
      HOSTLER_RETURN_IF_ERROR(Take(&count));
    }
    HOSTLER_RETURN_IF_ERROR(ReadElements(count, 1, &value));
    if (!header_.metadata.Add(key, std::move(value))) return Fail("occurs twice");
    return absl::OkStatus();
  }

  absl::Status ReadElements(uint64_t count, int nesting, GgufMetadata::Value* value) {
    if (const size_t bytes = ScalarBytes(value->type); bytes > 0) {
      if (count > left() / bytes) return CutOff();
      HOSTLER_RETURN_IF_ERROR(TakeBytes(count * bytes, &value->scalars));
      if (value->type == GgufType::kBool &&
          !std::all_of(value->scalars.begin(), value->scalars.end(),
                       [](char c) { return c == 0 || c == 1; })) {
        return Fail("a bool is neither 0 nor 1");
      }
      return absl::OkStatus();
    }
    if (value->type == GgufType::kString) {
      if (count > left() / sizeof(uint64_t)) return CutOff();
      value->strings.resize(count);
      for (std::string& string : value->strings) HOSTLER_RETURN_IF_ERROR(TakeString(&string));
      return absl::OkStatus();
    }
    return SkipLists(count, nesting);
  }

  absl::Status SkipLists(uint64_t count, int nesting) {
    if (nesting == kMaxNesting) return Fail(fmt::format("nested more than {} deep", kMaxNesting));
    if (count > left() / (sizeof(uint32_t) + sizeof(uint64_t))) return CutOff();
    for (uint64_t i = 0; i < count; ++i) {
      GgufMetadata::Value inner;
      uint64_t inner_count = 0;
      HOSTLER_RETURN_IF_ERROR(TakeType(&inner.type));
      HOSTLER_RETURN_IF_ERROR(Take(&inner_count));
      HOSTLER_RETURN_IF_ERROR(ReadElements(inner_count, nesting + 1, &inner));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAlignment() {
    HOSTLER_ASSIGN_OR_RETURN(
        const int64_t alignment,
        header_.metadata.GetInt("general.alignment", static_cast<int64_t>(kDefaultAlignment)));
    if (alignment <= 0 || (alignment & (alignment - 1)) != 0 || alignment > UINT32_MAX) {
      return Fail(fmt::format("metadata \"general.alignment\": {} is no power of two", alignment));
    }
    alignment_ = static_cast<uint64_t>(alignment);
    return absl::OkStatus();
  }

  absl::Status ReadTensor() {
    where_.clear();
    TensorInfo tensor;
    HOSTLER_RETURN_IF_ERROR(TakeName(&tensor.name));
    where_ = fmt::format("tensor {}: ", Quoted(tensor.name));
    if (!names_.insert(tensor.name).second) return Fail("occurs twice");
    HOSTLER_RETURN_IF_ERROR(ReadShape(&tensor.shape));
    uint32_t number = 0;
    HOSTLER_RETURN_IF_ERROR(Take(&number));
    const TensorType* type = FindTensorType(number);
    if (type == nullptr || !type->dtype) {
      return Fail(type == nullptr ? fmt::format("has the unknown type {}", number)
                                  : fmt::format("type {} is not supported", type->name),
                  absl::StatusCode::kUnimplemented);
    }
    tensor.dtype = *type->dtype;
    const DTypeInfo& info = GetDTypeInfo(tensor.dtype);
    const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (row % info.block_elements != 0) {
      return Fail(fmt::format("its rows of {} values are not whole blocks of {}", row, type->name));
    }
    uint64_t elements = 1;
    for (int64_t dim : tensor.shape) {
      if (__builtin_mul_overflow(elements, static_cast<uint64_t>(dim), &elements)) {
        return Fail("shape overflows");
      }
    }
    if (elements > static_cast<uint64_t>(INT64_MAX) ||
        __builtin_mul_overflow(elements / info.block_elements,
                               static_cast<uint64_t>(info.block_bytes), &tensor.bytes)) {
      return Fail("shape overflows");
    }
    HOSTLER_RETURN_IF_ERROR(Take(&tensor.offset));
    if (tensor.offset % alignment_ != 0) {
      return Fail(fmt::format("its offset {} is not aligned to {}", tensor.offset, alignment_));
    }
    header_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status ReadShape(std::vector<int64_t>* shape) {
    uint32_t dimensions = 0;
    HOSTLER_RETURN_IF_ERROR(Take(&dimensions));
    if (dimensions > kMaxDimensions) {
      return Fail(fmt::format("has {} dimensions, more than {}", dimensions, kMaxDimensions));
    }
    shape->resize(dimensions);
    for (uint32_t i = dimensions; i-- > 0;) {
      uint64_t dim = 0;
      HOSTLER_RETURN_IF_ERROR(Take(&dim));
      if (dim > static_cast<uint64_t>(INT64_MAX)) return Fail("shape overflows");
      (*shape)[i] = static_cast<int64_t>(dim);
    }
    return absl::OkStatus();
  }

  // Turns offsets from the start of the data into offsets from the file's.
  absl::Status PlaceTensors() {
    // A file without data may end before the padding.
    const uint64_t begin =
        std::min<uint64_t>((at_ + alignment_ - 1) / alignment_ * alignment_, file_.size());
    const uint64_t data_bytes = file_.size() - begin;
    for (TensorInfo& tensor : header_.tensors) {
      if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
        where_ = fmt::format("tensor {}: ", Quoted(tensor.name));
        return Fail(
            fmt::format("its {} bytes at {} go past the end of the file, which has {} bytes of "
                        "data; truncated?",
                        tensor.bytes, tensor.offset, data_bytes));
      }
      tensor.offset += begin;
    }
    return absl::OkStatus();
  }

  const std::span<const std::byte> file_;
  const size_t limit_;  // of the header
  const std::string& path_;
  size_t at_ = 0;
  std::string where_;  // "tensor "x": ", for errors
  uint64_t alignment_ = kDefaultAlignment;
  std::unordered_set<std::string> names_;
  GgufHeader header_;
};

}  // namespace

absl::StatusOr<GgufHeader> ParseGguf(std::span<const std::byte> file, const std::string& path) {
  return Parser(file, path).Parse();
}

}  // namespace hostler
