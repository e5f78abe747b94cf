#include "engine/compute/cuda/experts.h"

#include <algorithm>
#include <utility>

namespace hostler {
namespace {

template <typename T>
bool Take(Launcher& launcher, absl::StatusOr<T> made, T* out) {
  if (!made.ok()) return launcher.Check(cudaErrorMemoryAllocation);
  *out = *std::move(made);
  return true;
}

const uint8_t* At(const std::byte* slot, size_t offset) {
  return offset == ExpertLayout::kNone ? nullptr : reinterpret_cast<const uint8_t*>(slot + offset);
}

}  // namespace

size_t CudaExperts::ScratchBytes(const ExpertLayout& layout, int64_t entries) const {
  return size_t(entries) * layout.ffn * 2 * sizeof(float);
}

bool CudaExperts::ReserveHidden(size_t floats) {
  if (hidden_floats_ >= floats) return true;
  hidden_floats_ = 0;
  hidden_.reset();
  if (!Take(launcher_, NewDeviceMemory(floats * sizeof(float)), &hidden_)) return false;
  hidden_floats_ = floats;
  return true;
}

bool CudaExperts::Group(const ExpertLayout& layout, std::span<const ExpertTask> tasks) {
  in_rows_.clear();
  out_rows_.clear();
  in_scales_.clear();
  gates_.clear();
  ups_.clear();
  downs_.clear();
  slots_.clear();
  bool scaled = false, single = true;
  for (const ExpertTask& task : tasks) scaled = scaled || !task.in_scales.empty();
  for (const ExpertTask& task : tasks) {
    if (task.on_host) continue;
    const std::byte* slot = task.slot;
    const int32_t begin = static_cast<int32_t>(in_rows_.size());
    const int32_t rows = static_cast<int32_t>(task.in_rows.size());
    if (rows > 0) slots_.push_back({slot, layout.bytes});
    in_rows_.insert(in_rows_.end(), task.in_rows.begin(), task.in_rows.end());
    out_rows_.insert(out_rows_.end(), task.out_rows.begin(), task.out_rows.end());
    in_scales_.insert(in_scales_.end(), task.in_scales.begin(), task.in_scales.end());
    in_scales_.resize(scaled ? in_rows_.size() : 0, 1.0f);
    single = single && rows <= 1;
    for (int32_t done = 0; done < rows; done += kTileTokens) {
      const int32_t first = begin + done, count = std::min(kTileTokens, rows - done);
      gates_.push_back({At(slot, layout.gate_offset), At(slot, layout.gate_bias), first, count});
      ups_.push_back({At(slot, layout.up_offset), At(slot, layout.up_bias), first, count});
      downs_.push_back({At(slot, layout.down_offset), At(slot, layout.down_bias), first, count});
    }
  }
  return single;
}

void CudaExperts::Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                      Mat out) {
  const bool single = Group(layout, tasks);
  const int64_t entries = static_cast<int64_t>(in_rows_.size());
  if (entries == 0 || !launcher_.ok()) return;
  // For all the entries there may ever be: which of them are the device's changes.
  if (!ReserveHidden(static_cast<size_t>(2 * out.rows * layout.ffn))) return;
  const int32_t* in_rows = parameters_.Put(std::span<const int32_t>(in_rows_));
  const int32_t* out_rows = parameters_.Put(std::span<const int32_t>(out_rows_));
  const float* in_scales = parameters_.Put(std::span<const float>(in_scales_));
  const auto put = [&](const std::vector<MatMulGroup>& groups) {
    return parameters_.Put(std::span<const MatMulGroup>(groups));
  };
  float* const hidden = reinterpret_cast<float*>(hidden_.get());
  const Mat gate = {hidden, entries, layout.ffn};
  const Mat up = {hidden + entries * layout.ffn, entries, layout.ffn};
  MatMulTask task;
  task.rows = layout.ffn;
  task.cols = layout.dim;
  task.x = x.data;
  task.x_stride = x.cols;
  task.x_rows = x.rows;
  task.y_stride = layout.ffn;
  task.y_rows = entries;
  task.group_count = static_cast<int>(gates_.size());
  task.in_rows = in_rows;
  task.in_scales = in_scales;
  task.single = single;
  task.type = layout.gate_type;
  task.groups = put(gates_);
  task.y = gate.data;
  LaunchMatMul(launcher_, task, slots_);
  task.type = layout.up_type;
  task.groups = put(ups_);
  task.y = up.data;
  LaunchMatMul(launcher_, task, slots_);
  LaunchActivate(launcher_, layout.activation, gate, up, gate);
  task.type = layout.down_type;
  task.rows = layout.dim;
  task.cols = layout.ffn;
  task.groups = put(downs_);
  task.x = gate.data;
  task.x_stride = layout.ffn;
  task.x_rows = entries;
  task.in_rows = nullptr;
  task.in_scales = nullptr;
  task.out_rows = out_rows;
  task.y = out.data;
  task.y_stride = out.cols;
  task.y_rows = out.rows;
  LaunchMatMul(launcher_, task, slots_);
}

}  // namespace hostler
