#include "engine/model/tensor_binder.h"

#include <utility>

#include "engine/compute/quantize.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace hostler {

bool CanQuantize(int64_t cols) { return cols % GetDTypeInfo(DType::kQ8_0).block_elements == 0; }

void TensorBinder::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

const TensorInfo* TensorBinder::Check(const std::string& name, const std::vector<int64_t>& shape) {
  const TensorInfo* tensor = source_->Find(name);
  if (tensor == nullptr) {
    Fail(absl::InvalidArgumentError(fmt::format("tensor \"{}\" is missing", name)));
    return nullptr;
  }
  if (tensor->shape != shape) {
    Fail(absl::InvalidArgumentError(
        fmt::format("tensor \"{}\" has shape {}, the configuration asks for [{}]", name,
                    tensor->ShapeString(), fmt::join(shape, ", "))));
    return nullptr;
  }
  const DType type = tensor->dtype;
  if (type != DType::kF32 && type != DType::kF16 && type != DType::kBF16) {
    Fail(
        absl::UnimplementedError(fmt::format("tensor \"{}\" has type {}; f32, f16 and bf16 can be "
                                             "served",
                                             name, GetDTypeInfo(type).name)));
    return nullptr;
  }
  return tensor;
}

Weight TensorBinder::View(const TensorInfo& tensor, int64_t rows, int64_t cols) {
  bytes_ += tensor.bytes;
  return {tensor.dtype, rows, cols, source_->Data(tensor).data()};
}

Weight TensorBinder::Vector(const std::string& name, int64_t size) {
  const TensorInfo* tensor = Check(name, {size});
  return tensor == nullptr ? Weight{} : View(*tensor, 1, size);
}

Weight TensorBinder::MatrixAsStored(const std::string& name, int64_t rows, int64_t cols) {
  const TensorInfo* tensor = Check(name, {rows, cols});
  return tensor == nullptr ? Weight{} : View(*tensor, rows, cols);
}

Weight TensorBinder::Matrix(const std::string& name, int64_t rows, int64_t cols) {
  if (!quantize_ || !CanQuantize(cols)) return MatrixAsStored(name, rows, cols);
  const TensorInfo* tensor = Check(name, {rows, cols});
  if (tensor == nullptr) return {};
  Weight weight{DType::kQ8_0, rows, cols, nullptr};
  auto buffer = backend_->Allocate(weight.bytes());
  if (!buffer.ok()) {
    Fail(buffer.status());
    return {};
  }
  ConvertRows(tensor->dtype, DType::kQ8_0, source_->Data(*tensor).data(), rows * cols,
              (*buffer)->data());
  weight.data = (*buffer)->data();
  bytes_ += weight.bytes();
  buffers_.push_back(*std::move(buffer));
  return weight;
}

}  // namespace hostler
