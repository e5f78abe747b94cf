#include "engine/compute/cuda/parameters.h"

#include <algorithm>
#include <bit>

namespace hostler {
namespace {

constexpr size_t kAlignment = 256;

size_t Aligned(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Sets *out or tells the launcher. cudaErrorMemoryAllocation: all that these fail with.
template <typename T>
bool Take(Launcher& launcher, absl::StatusOr<T> made, T* out) {
  if (!made.ok()) return launcher.Check(cudaErrorMemoryAllocation);
  *out = *std::move(made);
  return true;
}

}  // namespace

bool Parameters::Reserve(Area& area, size_t bytes) {
  if (area.bytes >= bytes) return true;
  launcher_.Synchronize();  // what is freed may be in use
  area.bytes = 0;
  if (!Take(launcher_, NewPinnedMemory(bytes), &area.host) ||
      !Take(launcher_, NewDeviceMemory(bytes), &area.device)) {
    return false;
  }
  area.bytes = bytes;
  return true;
}

const std::byte* Parameters::Upload(Area& area, size_t at, const void* values, size_t bytes) {
  std::byte* host = area.host.get() + at;
  CheckHostWrite(host, bytes);
  std::memcpy(host, values, bytes);
  launcher_.Upload(area.device.get() + at, host, bytes);
  return area.device.get() + at;
}

const std::byte* Parameters::PutBytes(const void* values, size_t bytes) {
  // What a run before was given may vary a little without moving this one's.
  constexpr size_t kRunAlignment = size_t{16} << 10;
  if (bytes == 0 || !launcher_.ok()) return nullptr;
  if (put_wait_ != launcher_.synchronizations()) {
    side_ = 0;
    taken_ = 0;
  } else if (put_flush_ != launcher_.flushes()) {
    taken_ = Aligned(taken_, kRunAlignment);
  }
  if (taken_ + bytes > put_[side_].bytes) {
    side_ = put_[side_].bytes == 0 ? side_ : 1 - side_;
    taken_ = 0;
    if (put_used_[side_] == launcher_.synchronizations()) launcher_.Synchronize();
    if (!Reserve(put_[side_], std::max(Aligned(bytes, kRunAlignment), kBytes))) return nullptr;
  }
  put_used_[side_] = put_wait_ = launcher_.synchronizations();
  put_flush_ = launcher_.flushes();
  const std::byte* put = Upload(put_[side_], taken_, values, bytes);
  taken_ = std::min(put_[side_].bytes, Aligned(taken_ + bytes, kAlignment));
  return put;
}

const std::byte* Parameters::KeepBytes(const void* key, const void* values, size_t bytes) {
  if (!launcher_.ok()) return nullptr;
  const auto found = kept_.find(key);
  if (found != kept_.end() && found->second.values.size() == bytes &&
      std::memcmp(found->second.values.data(), values, bytes) == 0) {
    return found->second.device.get();
  }
  launcher_.Flush();
  // Memory that queued kernels still read is freed only when they have ended.
  if (found != kept_.end()) kept_.erase(found);
  if (kept_.size() >= kMostKept) kept_.clear();
  Kept kept;
  if (!Take(launcher_, NewDeviceMemory(bytes), &kept.device)) return nullptr;
  PinnedPtr host;
  if (!Take(launcher_, NewPinnedMemory(bytes), &host)) return nullptr;
  std::memcpy(host.get(), values, bytes);
  if (!launcher_.Check(cudaMemcpyAsync(kept.device.get(), host.get(), bytes, cudaMemcpyHostToDevice,
                                       launcher_.stream))) {
    return nullptr;
  }
  launcher_.Synchronize();
  if (!launcher_.ok()) return nullptr;
  const auto* begin = static_cast<const std::byte*>(values);
  kept.values.assign(begin, begin + bytes);
  return (kept_[key] = std::move(kept)).device.get();
}

// One run of bytes: sequences, each row's sequence, positions, blocks.
Parameters::Parts Parameters::Pack(const StepBatch& batch, DeviceBatch* result) {
  result->rows = static_cast<int>(batch.positions.size());
  result->sequence_count = static_cast<int>(batch.sequences.size());
  size_t blocks = 0;
  for (const StepBatch::Sequence& sequence : batch.sequences) blocks += sequence.blocks.size();
  Parts parts;
  parts.rows = batch.sequences.size() * sizeof(DeviceSequence);
  parts.positions = parts.rows + batch.positions.size() * sizeof(int32_t);
  parts.blocks = parts.positions + batch.positions.size() * sizeof(int32_t);
  packed_.assign(parts.blocks + blocks * sizeof(int32_t), std::byte{0});
  auto* sequences = reinterpret_cast<DeviceSequence*>(packed_.data());
  auto* row_sequences = reinterpret_cast<int32_t*>(packed_.data() + parts.rows);
  auto* block = reinterpret_cast<int32_t*>(packed_.data() + parts.blocks);
  std::memcpy(packed_.data() + parts.positions, batch.positions.data(),
              batch.positions.size() * sizeof(int32_t));
  std::fill_n(row_sequences, result->rows, -1);
  int32_t first_block = 0;
  for (int s = 0; s < result->sequence_count; ++s) {
    const StepBatch::Sequence& from = batch.sequences[s];
    sequences[s] = {from.first_row,     from.rows,   from.first_position,
                    from.prompt_tokens, first_block, from.state};
    std::fill_n(row_sequences + from.first_row, from.rows, s);
    for (const int32_t index : from.blocks) {
      block[first_block++] = index;
      result->last_block = std::max(result->last_block, index);
    }
    result->last_position = std::max(result->last_position, from.first_position + from.rows - 1);
    result->last_state = std::max(result->last_state, from.state);
  }
  return parts;
}

DeviceBatch Parameters::Batch(const StepBatch& batch) {
  constexpr size_t kLeastBytes = size_t{64} << 10;
  DeviceBatch result;
  const Parts parts = Pack(batch, &result);
  if (!launcher_.ok() || packed_.empty()) return result;
  const bool sent = has_batch_ && batch_errors_ == launcher_.errors() && packed_ == sent_;
  if (!sent) {
    has_batch_ = false;
    // The one before may still be on its way, or used by kernels not yet queued.
    if (batch_wait_ == launcher_.synchronizations()) launcher_.Synchronize();
    if (batch_flush_ == launcher_.flushes()) launcher_.Flush();
    if (!Reserve(batch_, std::max(std::bit_ceil(packed_.size()), kLeastBytes))) return result;
    Upload(batch_, 0, packed_.data(), packed_.size());
    if (!launcher_.ok()) return result;
    sent_ = packed_;
    has_batch_ = true;
    batch_wait_ = launcher_.synchronizations();
    batch_errors_ = launcher_.errors();
  }
  batch_flush_ = launcher_.flushes();
  const std::byte* device = batch_.device.get();
  result.sequences = reinterpret_cast<const DeviceSequence*>(device);
  result.row_sequences = reinterpret_cast<const int32_t*>(device + parts.rows);
  result.positions = reinterpret_cast<const int32_t*>(device + parts.positions);
  result.blocks = reinterpret_cast<const int32_t*>(device + parts.blocks);
  return result;
}

}  // namespace hostler
