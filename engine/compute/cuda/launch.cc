#include "engine/compute/cuda/launch.h"

#include "engine/compute/cuda/run_graphs.h"
#if defined(HOSTLER_CUDA_EMULATED)
#include "engine/compute/cuda/emulation/emulation.h"
#endif

namespace hostler {

Launcher::Launcher() = default;
Launcher::~Launcher() = default;

cudaError_t Launcher::TakeError() {
  if (ok()) return cudaSuccess;
  Flush();
  ++errors_;
  return std::exchange(error_, cudaSuccess);
}

void Launcher::Gather() { graphs_ = std::make_unique<RunGraphs>(); }

GraphCounts Launcher::graph_counts() const {
  return graphs_ == nullptr ? GraphCounts{} : graphs_->counts();
}

std::byte* Launcher::Add(const Shape& shape, const Uses& uses, const void* kernel,
                         const KernelType* type, size_t parameter_bytes) {
  constexpr size_t kAlignment = PackedLaunch::kAlignment;
  PackedLaunch launch;
  launch.kernel = kernel;
  launch.type = type;
  launch.grid[0] = shape.grid.x;
  launch.grid[1] = shape.grid.y;
  launch.grid[2] = shape.grid.z;
  launch.block[0] = shape.block.x;
  launch.block[1] = shape.block.y;
  launch.block[2] = shape.block.z;
  launch.shared_bytes = static_cast<uint32_t>(shape.shared_bytes);
  launch.independent = shape.independent ? 1 : 0;
  launch.bytes =
      static_cast<uint32_t>((parameter_bytes + kAlignment - 1) / kAlignment * kAlignment);
  const size_t at = run_.size();
  run_.resize(at + sizeof launch + launch.bytes);
  std::memcpy(run_.data() + at, &launch, sizeof launch);
  ++launches_;
#if defined(HOSTLER_CUDA_EMULATED)
  ranges_.insert(ranges_.end(), uses.reads.begin(), uses.reads.end());
  ranges_.insert(ranges_.end(), uses.also_reads.begin(), uses.also_reads.end());
  ranges_.insert(ranges_.end(), uses.writes.begin(), uses.writes.end());
  range_counts_.push_back({uses.reads.size() + uses.also_reads.size(), uses.writes.size()});
#else
  (void)uses;
#endif
  return run_.data() + at + sizeof launch;
}

void Launcher::Upload(std::byte* to, const std::byte* from, size_t bytes) {
  if (!ok() || bytes == 0) return;
  // One copy for what lies side by side, to an alignment.
  constexpr std::ptrdiff_t kMostGap = 256;
  for (Copy& copy : uploads_) {
    const std::ptrdiff_t gap = to - (copy.to + copy.bytes);
    if (gap < 0 || gap >= kMostGap || to - copy.to != from - copy.from) continue;
    copy.bytes = static_cast<size_t>(to - copy.to) + bytes;
    return;
  }
  uploads_.push_back({to, from, bytes});
}

void Launcher::SendUploads() {
  for (const Copy& copy : uploads_) {
    if (!ok()) break;
    Check(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyHostToDevice, stream));
  }
  uploads_.clear();
}

#if defined(HOSTLER_CUDA_EMULATED)
namespace {

using cuda_emulation::Range;
static_assert(sizeof(DeviceRange) == sizeof(Range));

std::span<const Range> RangesOf(const DeviceRange* list, size_t count) {
  return {reinterpret_cast<const Range*>(list), count};
}

}  // namespace
#endif

// One launch after another.
cudaError_t Launcher::QueueRun() {
  [[maybe_unused]] const DeviceRange* ranges = ranges_.data();
  const std::byte* at = run_.data();
  for (size_t i = 0; i < launches_; ++i) {
    const auto& launch = *reinterpret_cast<const PackedLaunch*>(at);
    at += sizeof launch + launch.bytes;
    const dim3 grid(launch.grid[0], launch.grid[1], launch.grid[2]);
    const dim3 block(launch.block[0], launch.block[1], launch.block[2]);
#if defined(HOSTLER_CUDA_EMULATED)
    const auto [reads, writes] = range_counts_[i];
    const std::byte* parameters = launch.parameters();
    std::vector<std::byte> kept(parameters, parameters + launch.bytes);
    const cudaError_t error = cuda_emulation::LaunchKernel(
        {grid, block, launch.shared_bytes, launch.independent != 0, RangesOf(ranges, reads),
         RangesOf(ranges + reads, writes)},
        stream, [kernel = launch.kernel, call = launch.type->call, kept = std::move(kept)] {
          call(kernel, kept.data());
        });
    ranges += reads + writes;
#else
    constexpr size_t kMostParameters = 16;
    void* pointers[kMostParameters] = {};
    if (launch.type->offsets.size() > kMostParameters) return cudaErrorInvalidValue;
    for (size_t p = 0; p < launch.type->offsets.size(); ++p) {
      pointers[p] = const_cast<std::byte*>(launch.parameters() + launch.type->offsets[p]);
    }
    const cudaError_t error =
        cudaLaunchKernel(launch.kernel, grid, block, pointers, launch.shared_bytes, stream);
#endif
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

void Launcher::Flush() {
  if (ok()) SendUploads();
  uploads_.clear();
  if (ok() && launches_ > 0) {
    if (graphs_ == nullptr) {
      Check(QueueRun());
    } else {
      const auto queue = [this] { return QueueRun(); };
      const auto replay = [this](cudaGraphExec_t graph) {
#if defined(HOSTLER_CUDA_EMULATED)
        std::vector<cuda_emulation::NodeUses> uses;
        const DeviceRange* ranges = ranges_.data();
        for (const auto& [reads, writes] : range_counts_) {
          uses.push_back({RangesOf(ranges, reads), RangesOf(ranges + reads, writes)});
          ranges += reads + writes;
        }
        return cuda_emulation::LaunchGraph(graph, stream, uses);
#else
        return cudaGraphLaunch(graph, stream);
#endif
      };
      Check(graphs_->Queue(run_, launches_, stream, queue, replay));
    }
  }
  run_.clear();
  ranges_.clear();
  range_counts_.clear();
  if (launches_ > 0) ++flushes_;
  launches_ = 0;
}

void Launcher::Synchronize() {
  Flush();
  Check(cudaStreamSynchronize(stream));
  ++synchronizations_;
}

}  // namespace hostler
