// Binds a model's tensors by name to weights, checking type and shape.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/compute/backend.h"
#include "engine/weights/source.h"

namespace hostler {

// How a model uses a tensor.
struct TensorUse {
  int64_t rows = 0, cols = 0;  // of a matrix
  // A matrix whose type is free; any other tensor is used as it is stored.
  bool convertible = false;
};

// As ConfigReader: getters always return; the first problem stays in status().
// Weights view the source's mapping where they are used as stored, and buffers
// that the binder hands over (TakeBuffers) where they had to be changed: in type, or
// because products want their rows interleaved or not.
class TensorBinder {
 public:
  // `quantize`: matrices become q8_0 where their width allows and they are
  // not quantised already. `precise`: FP8 becomes f32 instead of bf16.
  TensorBinder(const WeightSource* source, Backend* backend, bool quantize, bool precise)
      : source_(source),
        backend_(backend),
        interleaves_([backend](DType type) { return backend->Interleaves(type); }),
        quantize_(quantize),
        precise_(precise) {}

  // Checks and notes in `uses`, by name, what is bound; converts and allocates
  // nothing. The weights it gives have the types they would have, and no values;
  // what is rearranged counts as it is stored. `interleaves`: as Backend::Interleaves.
  TensorBinder(const WeightSource* source, std::function<bool(DType)> interleaves, bool quantize,
               bool precise, std::map<std::string, TensorUse>* uses)
      : source_(source),
        backend_(nullptr),
        interleaves_(std::move(interleaves)),
        quantize_(quantize),
        precise_(precise),
        uses_(uses) {}

  // A [rows, cols] matrix for MatMul or, with several `heads`, for HeadMatMul;
  // quantised if asked.
  Weight Matrix(const std::string& name, int64_t rows, int64_t cols, int heads = 1);
  // The same for Embed alone, which takes rows as they lie.
  Weight Table(const std::string& name, int64_t rows, int64_t cols);
  // `rows` rows from `first` on of a matrix with `all_rows`; quantised if asked.
  Weight MatrixRows(const std::string& name, int64_t all_rows, int64_t first, int64_t rows,
                    int64_t cols);
  // A matrix always of the type it is stored in: gates decide by small differences.
  Weight MatrixAsStored(const std::string& name, int64_t rows, int64_t cols);
  // A matrix as f32 values, for one that must be rearranged.
  std::vector<float> Floats(const std::string& name, int64_t rows, int64_t cols);
  // A [size] vector, as stored; as f32 values.
  Weight Vector(const std::string& name, int64_t size);
  std::vector<float> Floats(const std::string& name, int64_t size);
  // A norm's gain, with `offset` added to each value.
  Weight Gain(const std::string& name, int64_t size, float offset);

  // Values of our own making, as a matrix in the backend's memory: as `type`,
  // or q8_0 if asked and it is wide enough. `heads` as with Matrix().
  Weight MakeMatrix(const std::vector<float>& values, DType type, int64_t rows, int64_t cols,
                    int heads = 1);

  // As `type`, whatever is asked.
  Weight MakeUnquantized(const std::vector<float>& values, DType type, int64_t rows, int64_t cols);

  bool Has(const std::string& name) const { return source_->Find(name) != nullptr; }
  // Null, and a problem noted, when it is missing or its shape is another one.
  // A dimension of 1 more or less does not matter.
  const TensorInfo* Check(const std::string& name, const std::vector<int64_t>& shape);
  // As Check, and the type must be one that can be computed with; f32; bytes
  // (u8); FP8; the FP8 matrix's scales, `name`_scale_inv.
  const TensorInfo* CheckWeight(const std::string& name, const std::vector<int64_t>& shape);
  const TensorInfo* CheckF32(const std::string& name, const std::vector<int64_t>& shape);
  const TensorInfo* CheckBytes(const std::string& name, const std::vector<int64_t>& shape);
  const TensorInfo* CheckFp8(const std::string& name, int64_t rows, int64_t cols);
  const TensorInfo* CheckFp8Scales(const std::string& name, int64_t rows, int64_t cols);
  // A problem when the source has a tensor of the model, of its first `layers`
  // layers, that nobody asked for: it would change what is computed.
  void RefuseUnused(int layers);
  // The type as stored; kF32 when it is missing.
  DType TypeOf(const std::string& name) const;

  void Fail(absl::Status status);
  const absl::Status& status() const { return status_; }
  uint64_t bytes() const { return bytes_; }  // of all weights bound so far
  // Values of all matrices bound so far, by the type they are held in.
  const std::map<DType, uint64_t>& matrix_values() const { return matrix_values_; }
  bool quantize() const { return quantize_; }
  // Whether slots with matrices of these types are to be interleaved.
  bool InterleavesSlots(const ExpertLayout& layout) const;
  // The type that FP8 values are held in.
  DType fp8_type() const { return precise_ ? DType::kF32 : DType::kBF16; }
  const WeightSource& source() const { return *source_; }
  std::vector<std::unique_ptr<Buffer>> TakeBuffers() { return std::move(buffers_); }

 private:
  // How a matrix's rows are to lie.
  enum class Rows { kForMatMul, kAsTheyLie };

  void Count(DType type, int64_t rows, int64_t cols);
  bool Interleaves(DType type, int64_t rows, int heads) const;
  Weight BindRows(const std::string& name, int64_t all_rows, int64_t first, int64_t rows,
                  int64_t cols, int heads, Rows order);
  // Null data when it cannot be had.
  std::byte* NewBuffer(size_t bytes);
  const TensorInfo* CheckType(const TensorInfo* tensor, bool fits);
  std::vector<float> ReadFloats(const TensorInfo* tensor);
  void Note(const TensorInfo* tensor, int64_t rows, int64_t cols, bool convertible);
  Weight Fp8Rows(const std::string& name, int64_t all_rows, int64_t first, int64_t rows,
                 int64_t cols, int heads);

  const WeightSource* source_;
  Backend* backend_;
  std::function<bool(DType)> interleaves_;
  bool quantize_;
  bool precise_ = false;
  std::map<std::string, TensorUse>* uses_ = nullptr;
  bool as_stored_ = false;  // what is bound now is not convertible
  uint64_t bytes_ = 0;
  std::map<DType, uint64_t> matrix_values_;
  std::set<const TensorInfo*> used_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  size_t used_of_buffer_ = 0;  // of the last one
  absl::Status status_;
};

// DeepSeek-V3's FP8 matrices: e4m3 values, one f32 scale for each block of
// 128 x 128. Bytes of the scales; values [rows, cols] with the scales applied.
uint64_t Fp8ScaleBytes(int64_t rows, int64_t cols);
void ScaleFp8(const std::byte* matrix, const std::byte* scales, int64_t rows, int64_t cols,
              std::vector<float>* values);

// The type that a matrix of `type` and width is held in when quantising.
DType QuantizedType(DType type, int64_t cols);

}  // namespace hostler
