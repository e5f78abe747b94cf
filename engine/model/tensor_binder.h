// Binds a model's tensors by name to weights, checking type and shape.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/compute/backend.h"
#include "engine/weights/source.h"

namespace hostler {

// As ConfigReader: getters always return; the first problem stays in status().
// The weights view the source's mapping where their type is kept, and buffers
// that the binder hands over (TakeBuffers) where they were quantised.
class TensorBinder {
 public:
  // `quantize`: matrices become q8_0 where their width allows.
  TensorBinder(const WeightSource* source, Backend* backend, bool quantize)
      : source_(source), backend_(backend), quantize_(quantize) {}

  // A [rows, cols] matrix; quantised if asked.
  Weight Matrix(const std::string& name, int64_t rows, int64_t cols);
  // The same, always as stored: gates decide by small differences.
  Weight MatrixAsStored(const std::string& name, int64_t rows, int64_t cols);
  // A [size] vector, as stored.
  Weight Vector(const std::string& name, int64_t size);
  // Null, and a problem noted, when it is missing or of another type or shape.
  const TensorInfo* Check(const std::string& name, const std::vector<int64_t>& shape);

  const absl::Status& status() const { return status_; }
  uint64_t bytes() const { return bytes_; }  // of all weights bound so far
  std::vector<std::unique_ptr<Buffer>> TakeBuffers() { return std::move(buffers_); }

 private:
  Weight View(const TensorInfo& tensor, int64_t rows, int64_t cols);
  void Fail(absl::Status status);

  const WeightSource* source_;
  Backend* backend_;
  bool quantize_;
  uint64_t bytes_ = 0;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  absl::Status status_;
};

// True when a matrix of this width can be q8_0.
bool CanQuantize(int64_t cols);

}  // namespace hostler
