// Experts of a step that the host computes, from slots in its own memory, with the bits
// that the device would give.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/thread_pool.h"
#include "engine/compute/cuda/host_mat_mul.h"

namespace hostler {

// One thread.
class HostExperts {
 public:
  // integers: products with types that have integers are in them, as the device's.
  HostExperts(int threads, bool integers) : pool_(threads), mat_mul_(&pool_, integers) {}

  // One task's part of Backend::ExpertFfn, of the same x; row i of out is for out_rows[i].
  void Run(const ExpertLayout& layout, const ExpertTask& task, Mat x, Mat out);

 private:
  ThreadPool pool_;
  HostMatMul mat_mul_;
  std::vector<float> input_, gate_, up_;  // [rows, dim], [rows, ffn], [rows, ffn]
};

}  // namespace hostler
