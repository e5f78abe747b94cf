#include "engine/model/tensor_binder.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "engine/compute/convert_weight.h"
#include "engine/compute/quantize.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace hostler {
namespace {

std::vector<int64_t> WithoutOnes(std::vector<int64_t> shape) {
  std::erase(shape, 1);
  return shape;
}

// FP8 comes with block scales, which take more than the matrix.
bool CanCompute(DType type) { return IsWeightType(type) && type != DType::kF8E4M3; }

// Matrices share buffers, so that huge pages are filled. What is not written of the last
// one takes no memory.
constexpr size_t kBufferBytes = size_t{256} << 20;

constexpr int64_t kFp8Block = 128;

int64_t Fp8Blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

// Whether rows [first, first + rows) of a stored matrix are `weight` as they lie.
bool IsPartOf(const Weight& stored, int64_t first, const Weight& weight) {
  if (stored.dtype != weight.dtype || stored.interleaved != weight.interleaved) return false;
  const bool to_the_end = first + weight.rows == stored.rows;
  return !stored.interleaved ||
         (first % kInterleavedRows == 0 && (to_the_end || weight.rows % kInterleavedRows == 0));
}

}  // namespace

uint64_t Fp8ScaleBytes(int64_t rows, int64_t cols) {
  return sizeof(float) * Fp8Blocks(rows) * Fp8Blocks(cols);
}

void ScaleFp8(const std::byte* matrix, const std::byte* scales, int64_t rows, int64_t cols,
              std::vector<float>* values) {
  values->resize(rows * cols);
  ConvertToF32(DType::kF8E4M3, matrix, rows * cols, values->data());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t block = 0; block < Fp8Blocks(cols); ++block) {
      float scale = 0;
      std::memcpy(&scale, scales + (row / kFp8Block * Fp8Blocks(cols) + block) * sizeof(scale),
                  sizeof(scale));
      float* out = values->data() + row * cols + block * kFp8Block;
      for (int64_t i = 0; i < std::min(kFp8Block, cols - block * kFp8Block); ++i) out[i] *= scale;
    }
  }
}

DType QuantizedType(DType type, int64_t cols) {
  const bool plain = GetDTypeInfo(type).block_elements == 1;
  return plain && cols % GetDTypeInfo(DType::kQ8_0).block_elements == 0 ? DType::kQ8_0 : type;
}

void TensorBinder::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

const TensorInfo* TensorBinder::Check(const std::string& name, const std::vector<int64_t>& shape) {
  const TensorInfo* tensor = source_->Find(name);
  if (tensor == nullptr) {
    Fail(absl::InvalidArgumentError(fmt::format("tensor \"{}\" is missing", name)));
    return nullptr;
  }
  if (WithoutOnes(tensor->shape) != WithoutOnes(shape)) {
    Fail(absl::InvalidArgumentError(
        fmt::format("tensor \"{}\" has shape {}, the configuration asks for [{}]", name,
                    tensor->ShapeString(), fmt::join(shape, ", "))));
    return nullptr;
  }
  used_.insert(tensor);
  return tensor;
}

const TensorInfo* TensorBinder::CheckType(const TensorInfo* tensor, bool fits) {
  if (tensor == nullptr || fits) return tensor;
  Fail(
      absl::UnimplementedError(fmt::format("tensor \"{}\" has type {}, which is not supported here",
                                           tensor->name, GetDTypeInfo(tensor->dtype).name)));
  return nullptr;
}

const TensorInfo* TensorBinder::CheckWeight(const std::string& name,
                                            const std::vector<int64_t>& shape) {
  const TensorInfo* tensor = Check(name, shape);
  return CheckType(tensor, tensor != nullptr && CanCompute(tensor->dtype));
}

const TensorInfo* TensorBinder::CheckF32(const std::string& name,
                                         const std::vector<int64_t>& shape) {
  const TensorInfo* tensor = Check(name, shape);
  return CheckType(tensor, tensor != nullptr && tensor->dtype == DType::kF32);
}

const TensorInfo* TensorBinder::CheckBytes(const std::string& name,
                                           const std::vector<int64_t>& shape) {
  const TensorInfo* tensor = Check(name, shape);
  return CheckType(tensor, tensor != nullptr && tensor->dtype == DType::kU8);
}

const TensorInfo* TensorBinder::CheckFp8(const std::string& name, int64_t rows, int64_t cols) {
  const TensorInfo* tensor = Check(name, {rows, cols});
  return CheckType(tensor, tensor != nullptr && tensor->dtype == DType::kF8E4M3);
}

const TensorInfo* TensorBinder::CheckFp8Scales(const std::string& name, int64_t rows,
                                               int64_t cols) {
  const TensorInfo* tensor = Check(name + "_scale_inv", {Fp8Blocks(rows), Fp8Blocks(cols)});
  return CheckType(tensor, tensor != nullptr && tensor->dtype == DType::kF32);
}

void TensorBinder::RefuseUnused(int layers) {
  constexpr std::string_view kLayer = "model.layers.";
  for (const TensorInfo& tensor : source_->tensors()) {
    const std::string_view name = tensor.name;
    int layer = 0;
    if (name.starts_with(kLayer)) {
      std::from_chars(name.data() + kLayer.size(), name.data() + name.size(), layer);
    }
    const bool of_model = name.starts_with("model.") || name.starts_with("lm_head.");
    if (!of_model || layer >= layers || used_.contains(&tensor)) continue;
    Fail(absl::UnimplementedError(
        fmt::format("tensor \"{}\" is not of this architecture as it is known here", name)));
    return;
  }
}

DType TensorBinder::TypeOf(const std::string& name) const {
  const TensorInfo* tensor = source_->Find(name);
  return tensor == nullptr ? DType::kF32 : tensor->dtype;
}

void TensorBinder::Count(DType type, int64_t rows, int64_t cols) {
  bytes_ += RowBytes(type, cols) * static_cast<uint64_t>(rows);
  if (rows > 1) matrix_values_[type] += static_cast<uint64_t>(rows * cols);
}

std::byte* TensorBinder::NewBuffer(size_t bytes) {
  // A cache line's multiple.
  bytes = (bytes + 63) / 64 * 64;
  if (buffers_.empty() || bytes > buffers_.back()->bytes() - used_of_buffer_) {
    auto buffer = backend_->Allocate(std::max(bytes, kBufferBytes));
    if (!buffer.ok()) {
      Fail(buffer.status());
      return nullptr;
    }
    buffers_.push_back(*std::move(buffer));
    used_of_buffer_ = 0;
  }
  return buffers_.back()->data() + std::exchange(used_of_buffer_, used_of_buffer_ + bytes);
}

bool TensorBinder::Interleaves(DType type, int64_t rows, int heads) const {
  const bool panels = heads == 1 ? rows >= kInterleavedRows : rows / heads % kInterleavedRows == 0;
  return panels && CanInterleave(type) && interleaves_(type);
}

bool TensorBinder::InterleavesSlots(const ExpertLayout& layout) const {
  bool any = false;
  for (const DType type : {layout.gate_type, layout.up_type, layout.down_type}) {
    if (!CanInterleave(type)) continue;
    if (!interleaves_(type)) return false;
    any = true;
  }
  return any;
}

Weight TensorBinder::BindRows(const std::string& name, int64_t all_rows, int64_t first,
                              int64_t rows, int64_t cols, int heads, Rows order) {
  if (TypeOf(name) == DType::kF8E4M3) return Fp8Rows(name, all_rows, first, rows, cols, heads);
  const TensorInfo* tensor = CheckWeight(name, {all_rows, cols});
  if (tensor == nullptr) return {};
  Weight weight{quantize_ ? QuantizedType(tensor->dtype, cols) : tensor->dtype, rows, cols,
                nullptr};
  const bool may_stay = backend_ == nullptr || backend_->SharesHostMemory();
  weight.interleaved = order == Rows::kAsTheyLie && weight.dtype == tensor->dtype && may_stay
                           ? tensor->interleaved
                           : Interleaves(weight.dtype, rows, heads);
  Count(weight.dtype, rows, cols);
  if (uses_ != nullptr) {
    Note(tensor, all_rows, cols, !as_stored_);
    return weight;
  }
  const size_t row_bytes = RowBytes(tensor->dtype, cols);
  const std::span<const std::byte> data = source_->Data(*tensor);
  const Weight stored{tensor->dtype, all_rows, cols, data.data(), tensor->interleaved};
  if (may_stay && IsPartOf(stored, first, weight)) {
    weight.data = data.data() + first * row_bytes;
    return weight;
  }
  std::byte* buffer = NewBuffer(weight.bytes());
  if (buffer == nullptr) return {};
  backend_->Convert(stored, first, weight, buffer);
  source_->Release(data.subspan(first * row_bytes, rows * row_bytes));
  weight.data = buffer;
  return weight;
}

Weight TensorBinder::MatrixRows(const std::string& name, int64_t all_rows, int64_t first,
                                int64_t rows, int64_t cols) {
  return BindRows(name, all_rows, first, rows, cols, /*heads=*/1, Rows::kForMatMul);
}

// Held as bf16, as DeepSeek's own conversion does, unless all digits are asked for.
Weight TensorBinder::Fp8Rows(const std::string& name, int64_t all_rows, int64_t first, int64_t rows,
                             int64_t cols, int heads) {
  const TensorInfo* tensor = CheckFp8(name, all_rows, cols);
  const TensorInfo* scales = CheckFp8Scales(name, all_rows, cols);
  if (tensor == nullptr || scales == nullptr) return {};
  if (uses_ != nullptr) {
    Note(tensor, all_rows, cols, !as_stored_);
    const DType type = quantize_ ? QuantizedType(fp8_type(), cols) : fp8_type();
    Count(type, rows, cols);
    return {type, rows, cols, nullptr};
  }
  std::vector<float> values;
  ScaleFp8(source_->Data(*tensor).data(), source_->Data(*scales).data(), all_rows, cols, &values);
  const auto begin = values.begin() + first * cols;
  return MakeMatrix(std::vector<float>(begin, begin + rows * cols), fp8_type(), rows, cols, heads);
}

Weight TensorBinder::Matrix(const std::string& name, int64_t rows, int64_t cols, int heads) {
  return BindRows(name, rows, 0, rows, cols, heads, Rows::kForMatMul);
}

Weight TensorBinder::Table(const std::string& name, int64_t rows, int64_t cols) {
  return BindRows(name, rows, 0, rows, cols, /*heads=*/1, Rows::kAsTheyLie);
}

Weight TensorBinder::MatrixAsStored(const std::string& name, int64_t rows, int64_t cols) {
  const bool quantize = std::exchange(quantize_, false);
  const bool as_stored = std::exchange(as_stored_, true);
  const Weight weight = Matrix(name, rows, cols);
  quantize_ = quantize;
  as_stored_ = as_stored;
  return weight;
}

Weight TensorBinder::Vector(const std::string& name, int64_t size) {
  return MatrixAsStored(name, 1, size);
}

// A tensor used in several ways is convertible only if it is in all.
void TensorBinder::Note(const TensorInfo* tensor, int64_t rows, int64_t cols, bool convertible) {
  TensorUse& use = uses_->try_emplace(tensor->name, TensorUse{rows, cols, true}).first->second;
  use.convertible = use.convertible && convertible;
}

std::vector<float> TensorBinder::ReadFloats(const TensorInfo* tensor) {
  if (tensor == nullptr) return {};
  if (uses_ != nullptr) {
    Note(tensor, 0, 0, /*convertible=*/false);
    return {};
  }
  const DTypeInfo& type = GetDTypeInfo(tensor->dtype);
  std::vector<float> values(tensor->bytes / type.block_bytes * type.block_elements);
  Weight stored{tensor->dtype, 1, static_cast<int64_t>(values.size()),
                source_->Data(*tensor).data(), tensor->interleaved};
  if (stored.interleaved) {
    stored.rows = tensor->shape[0];
    stored.cols = tensor->shape[1];
  }
  ConvertWeight(stored, 0, {DType::kF32, stored.rows, stored.cols},
                reinterpret_cast<std::byte*>(values.data()));
  return values;
}

std::vector<float> TensorBinder::Floats(const std::string& name, int64_t rows, int64_t cols) {
  if (uses_ != nullptr) Count(TypeOf(name), rows, cols);
  if (TypeOf(name) != DType::kF8E4M3) return ReadFloats(CheckWeight(name, {rows, cols}));
  const TensorInfo* tensor = CheckFp8(name, rows, cols);
  const TensorInfo* scales = CheckFp8Scales(name, rows, cols);
  std::vector<float> values;
  if (tensor == nullptr || scales == nullptr) return values;
  if (uses_ != nullptr) {
    Note(tensor, rows, cols, /*convertible=*/false);
    return values;
  }
  ScaleFp8(source_->Data(*tensor).data(), source_->Data(*scales).data(), rows, cols, &values);
  return values;
}

std::vector<float> TensorBinder::Floats(const std::string& name, int64_t size) {
  return ReadFloats(CheckWeight(name, {size}));
}

Weight TensorBinder::Gain(const std::string& name, int64_t size, float offset) {
  if (offset == 0) return Vector(name, size);
  std::vector<float> gains = Floats(name, size);
  for (float& gain : gains) gain += offset;
  return gains.empty() ? Weight{} : MakeMatrix(gains, DType::kF32, 1, size);
}

Weight TensorBinder::MakeUnquantized(const std::vector<float>& values, DType type, int64_t rows,
                                     int64_t cols) {
  const bool quantize = std::exchange(quantize_, false);
  const Weight weight = MakeMatrix(values, type, rows, cols);
  quantize_ = quantize;
  return weight;
}

Weight TensorBinder::MakeMatrix(const std::vector<float>& values, DType type, int64_t rows,
                                int64_t cols, int heads) {
  if (values.size() != static_cast<size_t>(rows * cols)) return {};  // a problem noted before
  const bool vector = rows == 1;
  Weight weight{quantize_ && !vector ? QuantizedType(type, cols) : type, rows, cols, nullptr};
  weight.interleaved = Interleaves(weight.dtype, rows, heads);
  Count(weight.dtype, rows, cols);
  std::byte* buffer = NewBuffer(weight.bytes());
  if (buffer == nullptr) return {};
  backend_->Convert({DType::kF32, rows, cols, reinterpret_cast<const std::byte*>(values.data())}, 0,
                    weight, buffer);
  weight.data = buffer;
  return weight;
}

}  // namespace hostler
