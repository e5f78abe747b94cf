// Experts of a step: products of each expert's rows, grouped in few launches.
#pragma once

#include <span>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/integers.h"
#include "engine/compute/cuda/kernels.h"
#include "engine/compute/cuda/parameters.h"

namespace hostler {

// One thread.
class CudaExperts {
 public:
  // integers: products with types that have integers are in them.
  CudaExperts(Launcher* launcher, Parameters* parameters, bool integers)
      : launcher_(*launcher), parameters_(*parameters), integers_(integers) {}

  void Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x, Mat out);
  size_t ScratchBytes(const ExpertLayout& layout, int64_t entries) const;

 private:
  // One of the matrices of every expert, and its results' first row.
  struct Matrix {
    size_t offset, bias;
    int32_t out = 0;
  };
  // A task's entries.
  struct Span {
    const std::byte* slot;
    int32_t first, rows;
  };

  bool UsesIntegers(DType type) const { return integers_ && HasIntegers(type); }
  void Gather(const ExpertLayout& layout, std::span<const ExpertTask> tasks);
  // Groups of tasks with more than `above` rows, and no more than `most`.
  void GroupSpans(std::span<const Matrix> matrices, int32_t above, int32_t most, int32_t tile);
  // With inputs as integers where the type has them; entry e's are row in_rows[e] of these.
  void Multiply(MatMulTask task, std::span<const Matrix> matrices, const IntegerInputs& inputs,
                const int32_t* in_rows);
  // Null, and an error, when there is no memory.
  // Of a row of inputs as integers, for whichever matrix needs more.
  size_t InputBytes(const ExpertLayout& layout) const;
  // May wait for the device: before parameters are put.
  std::byte* Reserve(Growing<DevicePtr>& memory, size_t bytes);

  Launcher& launcher_;
  Parameters& parameters_;
  const bool integers_;
  Growing<DevicePtr> hidden_, inputs_;
  // Of the tasks at hand.
  std::vector<int32_t> in_rows_, out_rows_;
  std::vector<float> in_scales_;
  std::vector<Span> spans_;
  std::vector<MatMulGroup> groups_;
  bool single_ = false;  // no group has more than one entry
  std::vector<DeviceRange> slots_;
};

}  // namespace hostler
