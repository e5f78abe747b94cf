#include "engine/compute/cuda/host_share.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/compute/cuda/kernels.h"

namespace hostler {
namespace {

bool MakeEvent(Launcher& launcher, EventPtr* event) {
  if (*event != nullptr) return true;
  absl::StatusOr<EventPtr> made = NewEvent();
  if (!made.ok()) return launcher.Check(cudaErrorMemoryAllocation);
  *event = *std::move(made);
  return true;
}

}  // namespace

bool HostShare::Reserve(PinnedPtr* memory, size_t* bytes, size_t wanted) {
  if (*bytes >= wanted) return true;
  *bytes = 0;
  memory->reset();
  absl::StatusOr<PinnedPtr> made = NewPinnedMemory(wanted);
  if (!made.ok()) return launcher_.Check(cudaErrorMemoryAllocation);
  *memory = *std::move(made);
  *bytes = wanted;
  return true;
}

void HostShare::Begin(std::span<const ExpertTask> tasks, Mat x) {
  out_rows_.clear();
  for (const ExpertTask& task : tasks) {
    if (!task.on_host) continue;
    out_rows_.insert(out_rows_.end(), task.out_rows.begin(), task.out_rows.end());
  }
  if (out_rows_.empty() || !launcher_.ok()) return;
  const size_t bytes = RangeOf(x).bytes;
  if (!MakeEvent(launcher_, &down_) || !MakeEvent(launcher_, &up_)) return;
  if (!Reserve(&x_, &x_bytes_, bytes)) return;
  launcher_.Check(
      cudaMemcpyAsync(x_.get(), x.data, bytes, cudaMemcpyDeviceToHost, launcher_.stream));
  launcher_.Check(cudaEventRecord(down_.get(), launcher_.stream));
}

void HostShare::End(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x, Mat out) {
  using Clock = std::chrono::steady_clock;
  if (out_rows_.empty() || !launcher_.ok()) return;
  // What took the last results may still be queued.
  if (!launcher_.Check(cudaEventSynchronize(up_.get()))) return;
  const Mat results = {nullptr, static_cast<int64_t>(out_rows_.size()), layout.dim};
  // As much as it may ever be.
  if (!Reserve(&results_, &result_bytes_, RangeOf(out).bytes)) return;
  if (!launcher_.Check(cudaEventSynchronize(down_.get()))) return;
  CheckHostRead(x_.get(), RangeOf(x).bytes);
  CheckHostWrite(results_.get(), RangeOf(results).bytes);
  if (experts_ == nullptr) experts_ = std::make_unique<HostExperts>(threads_, integers_);
  const Mat input = {reinterpret_cast<float*>(x_.get()), x.rows, x.cols};
  float* const first = reinterpret_cast<float*>(results_.get());
  float* next = first;
  for (const ExpertTask& task : tasks) {
    if (!task.on_host) continue;
    const Clock::time_point start = Clock::now();
    const Mat part = {next, static_cast<int64_t>(task.in_rows.size()), layout.dim};
    experts_->Run(layout, task, input, part);
    next += part.rows * part.cols;
    if (task.seconds != nullptr) {
      *task.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    }
  }
  const int32_t* rows = parameters_.Put(std::span<const int32_t>(out_rows_));
  LaunchScatterRows(launcher_, {first, results.rows, results.cols}, rows, out);
  launcher_.Flush();
  launcher_.Check(cudaEventRecord(up_.get(), launcher_.stream));
}

}  // namespace hostler
