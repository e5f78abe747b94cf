#include "engine/compute/cuda/experts.h"

#include <algorithm>
#include <limits>

namespace hostler {
namespace {

const uint8_t* At(const std::byte* slot, size_t offset) {
  return offset == ExpertLayout::kNone ? nullptr : reinterpret_cast<const uint8_t*>(slot + offset);
}

}  // namespace

size_t CudaExperts::InputBytes(const ExpertLayout& layout) const {
  size_t bytes = 0;
  if (UsesIntegers(layout.gate_type) || UsesIntegers(layout.up_type)) {
    bytes = IntegerInputs::RowBytes(layout.dim);
  }
  if (UsesIntegers(layout.down_type)) {
    bytes = std::max(bytes, IntegerInputs::RowBytes(layout.ffn));
  }
  return bytes;
}

size_t CudaExperts::ScratchBytes(const ExpertLayout& layout, int64_t entries) const {
  const size_t hidden = static_cast<size_t>(layout.ffn) * 2 * sizeof(float);
  return static_cast<size_t>(entries) * (hidden + InputBytes(layout));
}

std::byte* CudaExperts::Reserve(Growing<DevicePtr>& memory, size_t bytes) {
  if (memory.bytes < bytes) launcher_.Synchronize();  // what is freed may be in use
  std::byte* data = memory.Reserve(bytes, NewDeviceMemory);
  if (data == nullptr && bytes > 0) launcher_.Check(cudaErrorMemoryAllocation);
  return data;
}

void CudaExperts::Gather(const ExpertLayout& layout, std::span<const ExpertTask> tasks) {
  in_rows_.clear();
  out_rows_.clear();
  in_scales_.clear();
  spans_.clear();
  slots_.clear();
  bool scaled = false;
  for (const ExpertTask& task : tasks) scaled = scaled || !task.in_scales.empty();
  for (const ExpertTask& task : tasks) {
    if (task.on_host || task.in_rows.empty()) continue;
    spans_.push_back({task.slot, static_cast<int32_t>(in_rows_.size()),
                      static_cast<int32_t>(task.in_rows.size())});
    slots_.push_back({task.slot, layout.bytes});
    in_rows_.insert(in_rows_.end(), task.in_rows.begin(), task.in_rows.end());
    out_rows_.insert(out_rows_.end(), task.out_rows.begin(), task.out_rows.end());
    in_scales_.insert(in_scales_.end(), task.in_scales.begin(), task.in_scales.end());
    in_scales_.resize(scaled ? in_rows_.size() : 0, 1.0f);
  }
}

void CudaExperts::GroupSpans(std::span<const Matrix> matrices, int32_t above, int32_t most,
                             int32_t tile) {
  groups_.clear();
  single_ = true;
  for (const Matrix& matrix : matrices) {
    for (const Span& span : spans_) {
      if (span.rows <= above || span.rows > most) continue;
      single_ = single_ && span.rows == 1;
      for (int32_t done = 0; done < span.rows; done += tile) {
        groups_.push_back({At(span.slot, matrix.offset), At(span.slot, matrix.bias),
                           span.first + done, std::min(tile, span.rows - done), matrix.out});
      }
    }
  }
}

void CudaExperts::Multiply(MatMulTask task, std::span<const Matrix> matrices,
                           const IntegerInputs& inputs, const int32_t* in_rows) {
  constexpr int32_t kAny = std::numeric_limits<int32_t>::max();
  const auto put_groups = [&] {
    task.groups = parameters_.Put(std::span<const MatMulGroup>(groups_));
    task.group_count = static_cast<int>(groups_.size());
    task.single = single_;
    return task.group_count > 0;
  };
  if (!UsesIntegers(task.type)) {
    GroupSpans(matrices, 0, kAny, kTileTokens);
    if (put_groups()) LaunchMatMul(launcher_, task, slots_);
    return;
  }
  task.in_rows = in_rows;
  for (const bool few : {true, false}) {
    if (few) GroupSpans(matrices, 0, kFewTokens, kFewTokens);
    if (!few) GroupSpans(matrices, kFewTokens, kAny, kTensorTokens);
    task.few = few;
    if (put_groups()) LaunchIntegerMatMul(launcher_, task, inputs, slots_);
  }
}

void CudaExperts::Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                      Mat out) {
  Gather(layout, tasks);
  const int64_t entries = static_cast<int64_t>(in_rows_.size());
  if (entries == 0 || !launcher_.ok()) return;
  // For all the entries there may ever be: which of them are the device's changes.
  const size_t hidden_bytes = static_cast<size_t>(2 * out.rows * layout.ffn) * sizeof(float);
  auto* const hidden = reinterpret_cast<float*>(Reserve(hidden_, hidden_bytes));
  std::byte* const integers =
      Reserve(inputs_, static_cast<size_t>(std::max(x.rows, out.rows)) * InputBytes(layout));
  if (!launcher_.ok()) return;
  const Mat gate = {hidden, entries, layout.ffn};
  const Mat up = {hidden + entries * layout.ffn, entries, layout.ffn};

  MatMulTask task;
  task.in_rows = parameters_.Put(std::span<const int32_t>(in_rows_));
  task.in_scales = parameters_.Put(std::span<const float>(in_scales_));
  const int32_t* out_rows = parameters_.Put(std::span<const int32_t>(out_rows_));
  task.rows = layout.ffn;
  task.cols = layout.dim;
  task.x = x.data;
  task.x_stride = x.cols;
  task.x_rows = x.rows;
  task.y = hidden;
  task.y_stride = layout.ffn;
  task.y_rows = 2 * entries;
  IntegerInputs inputs;
  const int32_t* gather = nullptr;
  if (UsesIntegers(layout.gate_type) || UsesIntegers(layout.up_type)) {
    // A row of integers for each entry where rows are scaled, or where those are fewer.
    if (!in_scales_.empty() || entries < x.rows) gather = task.in_rows;
    inputs = {integers, gather == nullptr ? x.rows : entries, layout.dim};
    LaunchQuantizeInputs(launcher_, x.data, x.rows, gather, task.in_scales, inputs);
  }
  const int32_t* in_rows = gather == nullptr ? task.in_rows : nullptr;
  const Matrix matrices[] = {
      {layout.gate_offset, layout.gate_bias, 0},
      {layout.up_offset, layout.up_bias, static_cast<int32_t>(entries)},
  };
  task.type = layout.gate_type;
  if (layout.gate_type == layout.up_type) {
    Multiply(task, matrices, inputs, in_rows);
  } else {
    Multiply(task, {&matrices[0], 1}, inputs, in_rows);
    task.type = layout.up_type;
    Multiply(task, {&matrices[1], 1}, inputs, in_rows);
  }
  LaunchActivate(launcher_, layout.activation, gate, up, gate);

  task = {};
  task.type = layout.down_type;
  task.rows = layout.dim;
  task.cols = layout.ffn;
  task.x = gate.data;
  task.x_stride = layout.ffn;
  task.x_rows = entries;
  task.out_rows = out_rows;
  task.y = out.data;
  task.y_stride = out.cols;
  task.y_rows = out.rows;
  if (UsesIntegers(layout.down_type)) {
    inputs = {integers, entries, layout.ffn};
    LaunchQuantizeInputs(launcher_, gate.data, entries, nullptr, nullptr, inputs);
  }
  const Matrix down = {layout.down_offset, layout.down_bias};
  Multiply(task, {&down, 1}, inputs, nullptr);
}

}  // namespace hostler
