#include "engine/compute/cuda/parameters.h"

#include <algorithm>

namespace hostler {
namespace {

constexpr size_t kAlignment = 256;

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Sets *out or tells the launcher. cudaErrorMemoryAllocation: all that these fail with.
template <typename T>
bool Take(Launcher& launcher, absl::StatusOr<T> made, T* out) {
  if (!made.ok()) return launcher.Check(cudaErrorMemoryAllocation);
  *out = *std::move(made);
  return true;
}

}  // namespace

// Makes room for `bytes` in a segment that nobody uses any more.
bool Parameters::Begin(Segment& segment, size_t bytes) {
  if (segment.used == nullptr) {
    if (!Take(launcher_, NewEvent(), &segment.used)) return false;
  } else if (!launcher_.Check(cudaEventSynchronize(segment.used.get()))) {
    return false;
  }
  segment.taken = 0;
  if (segment.bytes >= bytes) return true;
  segment.bytes = 0;
  const size_t room = std::max(bytes, kSegmentBytes);
  if (!Take(launcher_, NewPinnedMemory(room), &segment.host) ||
      !Take(launcher_, NewDeviceMemory(room), &segment.device)) {
    return false;
  }
  segment.bytes = room;
  return true;
}

Parameters::Segment* Parameters::Advance(std::span<Segment> segments, int* filling, size_t bytes) {
  const Segment& full = segments[*filling];
  if (full.used != nullptr &&
      !launcher_.Check(cudaEventRecord(full.used.get(), launcher_.stream))) {
    return nullptr;
  }
  *filling = (*filling + 1) % static_cast<int>(segments.size());
  Segment& next = segments[*filling];
  return Begin(next, bytes) ? &next : nullptr;
}

const std::byte* Parameters::Copy(Segment& segment, const void* values, size_t bytes) {
  std::byte* host = segment.host.get() + segment.taken;
  std::byte* device = segment.device.get() + segment.taken;
  segment.taken = std::min(segment.bytes, segment.taken + Aligned(bytes));
  CheckHostWrite(host, bytes);
  std::memcpy(host, values, bytes);
  return launcher_.Check(
             cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, launcher_.stream))
             ? device
             : nullptr;
}

const std::byte* Parameters::PutBytes(const void* values, size_t bytes) {
  if (bytes == 0 || !launcher_.ok()) return nullptr;
  Segment* segment = &segments_[filling_];
  if (segment->taken + bytes > segment->bytes) segment = Advance(segments_, &filling_, bytes);
  return segment == nullptr ? nullptr : Copy(*segment, values, bytes);
}

const std::byte* Parameters::KeepBytes(const void* key, const void* values, size_t bytes) {
  if (!launcher_.ok()) return nullptr;
  const auto found = kept_.find(key);
  if (found != kept_.end() && found->second.values.size() == bytes &&
      std::memcmp(found->second.values.data(), values, bytes) == 0) {
    return found->second.device.get();
  }
  // Memory that queued kernels still read is freed only when they have ended.
  if (found != kept_.end()) kept_.erase(found);
  if (kept_.size() >= kMostKept) kept_.clear();
  Kept kept;
  if (!Take(launcher_, NewDeviceMemory(bytes), &kept.device)) return nullptr;
  PinnedPtr host;
  if (!Take(launcher_, NewPinnedMemory(bytes), &host)) return nullptr;
  std::memcpy(host.get(), values, bytes);
  if (!launcher_.Check(cudaMemcpyAsync(kept.device.get(), host.get(), bytes, cudaMemcpyHostToDevice,
                                       launcher_.stream)) ||
      !launcher_.Check(cudaStreamSynchronize(launcher_.stream))) {
    return nullptr;
  }
  const auto* begin = static_cast<const std::byte*>(values);
  kept.values.assign(begin, begin + bytes);
  return (kept_[key] = std::move(kept)).device.get();
}

// One run of bytes: sequences, each row's sequence, positions, blocks.
DeviceBatch Parameters::Batch(const StepBatch& batch) {
  DeviceBatch result;
  result.rows = static_cast<int>(batch.positions.size());
  result.sequence_count = static_cast<int>(batch.sequences.size());
  size_t blocks = 0;
  for (const StepBatch::Sequence& sequence : batch.sequences) blocks += sequence.blocks.size();
  const size_t rows_at = batch.sequences.size() * sizeof(DeviceSequence);
  const size_t positions_at = rows_at + batch.positions.size() * sizeof(int32_t);
  const size_t blocks_at = positions_at + batch.positions.size() * sizeof(int32_t);
  packed_.assign(blocks_at + blocks * sizeof(int32_t), std::byte{0});
  auto* sequences = reinterpret_cast<DeviceSequence*>(packed_.data());
  auto* row_sequences = reinterpret_cast<int32_t*>(packed_.data() + rows_at);
  auto* block = reinterpret_cast<int32_t*>(packed_.data() + blocks_at);
  std::memcpy(packed_.data() + positions_at, batch.positions.data(),
              batch.positions.size() * sizeof(int32_t));
  std::fill_n(row_sequences, result.rows, -1);
  int32_t first_block = 0;
  for (int s = 0; s < result.sequence_count; ++s) {
    const StepBatch::Sequence& from = batch.sequences[s];
    sequences[s] = {from.first_row,     from.rows,   from.first_position,
                    from.prompt_tokens, first_block, from.state};
    std::fill_n(row_sequences + from.first_row, from.rows, s);
    for (const int32_t index : from.blocks) {
      block[first_block++] = index;
      result.last_block = std::max(result.last_block, index);
    }
    result.last_state = std::max(result.last_state, from.state);
  }
  const std::byte* device = batch_;
  if (device == nullptr || packed_ != sent_) {
    batch_ = nullptr;
    Segment* segment = launcher_.ok() && !packed_.empty()
                           ? Advance(batches_, &filling_batch_, packed_.size())
                           : nullptr;
    if (segment == nullptr) return result;
    device = Copy(*segment, packed_.data(), packed_.size());
    if (device == nullptr) return result;
    batch_ = device;
    sent_ = packed_;
  }
  result.sequences = reinterpret_cast<const DeviceSequence*>(device);
  result.row_sequences = reinterpret_cast<const int32_t*>(device + rows_at);
  result.positions = reinterpret_cast<const int32_t*>(device + positions_at);
  result.blocks = reinterpret_cast<const int32_t*>(device + blocks_at);
  return result;
}

}  // namespace hostler
