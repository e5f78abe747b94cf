// Experts of a step: products of each expert's rows, grouped in few launches.
#pragma once

#include <span>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cuda/device_memory.h"
#include "engine/compute/cuda/kernels.h"
#include "engine/compute/cuda/parameters.h"

namespace hostler {

// One thread.
class CudaExperts {
 public:
  CudaExperts(Launcher* launcher, Parameters* parameters)
      : launcher_(*launcher), parameters_(*parameters) {}

  void Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x, Mat out);
  size_t ScratchBytes(const ExpertLayout& layout, int64_t entries) const;

 private:
  // Returns whether each task has one row.
  bool Group(const ExpertLayout& layout, std::span<const ExpertTask> tasks);
  bool ReserveHidden(size_t floats);

  Launcher& launcher_;
  Parameters& parameters_;
  DevicePtr hidden_;
  size_t hidden_floats_ = 0;
  // Of the tasks at hand.
  std::vector<int32_t> in_rows_, out_rows_;
  std::vector<float> in_scales_;
  std::vector<MatMulGroup> gates_, ups_, downs_;
  std::vector<DeviceRange> slots_;
};

}  // namespace hostler
