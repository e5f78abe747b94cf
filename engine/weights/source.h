// WeightSource: a model's tensors by name, whatever file format holds them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/dtype.h"

namespace hostler {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first
  int file = 0;                // index into WeightSource::files()
  uint64_t offset = 0;         // from the start of the file
  uint64_t bytes = 0;
  // A matrix whose rows are interleaved (engine/compute/interleave.h); its shape has
  // two dimensions.
  bool interleaved = false;

  std::string ShapeString() const;  // "[4096, 256]"
};

// Immutable after it is opened; every method may be called from any thread.
// Every TensorInfo was checked: dtype known, shape × type = bytes, byte range
// inside its file, no two tensors overlapping.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual std::string_view format() const = 0;  // "safetensors", "gguf", "packed"
  virtual std::span<const TensorInfo> tensors() const = 0;
  virtual std::span<const std::string> files() const = 0;  // paths

  // Null when there is no such tensor.
  virtual const TensorInfo* Find(std::string_view name) const = 0;

  // The tensor's bytes, mapped. Valid as long as the source. Reading them
  // never kills the process: pages of a file that was truncated meanwhile read
  // as zeros and Health() says so from then on.
  virtual std::span<const std::byte> Data(const TensorInfo& tensor) const = 0;

  // A part of a tensor's Data() that is not needed any longer: it takes no memory
  // of this process until it is read again.
  virtual void Release(std::span<const std::byte> data) const = 0;

  // DataLoss, naming the file, once a mapped page could not be read. Results
  // computed since the last OK answer may be wrong and must be dropped.
  virtual absl::Status Health() const = 0;
};

// Opens a directory with model.safetensors, or model.safetensors.index.json
// and its shards. Errors: NotFound; InvalidArgument for a header that is
// truncated, lies about offsets, overlaps or overflows (names file and tensor).
absl::StatusOr<std::unique_ptr<WeightSource>> OpenSafetensors(const std::string& directory);

// Opens whatever format `path` holds: a directory with safetensors, a packed
// store or one GGUF model (of one file or split), or a file of the first or
// last. A source whose format() is "gguf" is a GgufSource, one whose format() is
// "packed" a PackedSource. Errors: as above, and Unimplemented with what was
// found when it is none we read.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(const std::string& path);

}  // namespace hostler
