// The expert cache's view of what lies on disk. `cache/` knows experts as
// numbered byte ranges; what the bytes mean is the engine's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace hostler {

// Names one expert of one MoE layer. `layer` counts MoE layers from 0, which
// is not the model's layer number when leading layers are dense.
struct ExpertKey {
  int layer = 0;
  int expert = 0;
  friend bool operator==(const ExpertKey&, const ExpertKey&) = default;
};

// A run of bytes in one of the store's files.
struct Extent {
  int file = 0;  // index into the files the Reader was opened with
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

inline uint64_t TotalBytes(std::span<const Extent> extents) {
  uint64_t bytes = 0;
  for (const Extent& extent : extents) bytes += extent.bytes;
  return bytes;
}

// Where every expert's bytes lie and how they become a slot's contents.
// Immutable after construction; every method may be called from any thread.
class ExpertStore {
 public:
  virtual ~ExpertStore() = default;

  virtual int num_layers() const = 0;
  virtual int num_experts(int layer) const = 0;

  // Bytes an expert of `layer` takes in a slot, in the kernels' layout.
  virtual size_t slot_bytes(int layer) const = 0;

  // What must be read for `key`, in the order Decode expects it.
  virtual std::span<const Extent> extents(ExpertKey key) const = 0;

  // False: the extents, one after another, are the slot's contents, and the
  // cache reads straight into the slot. True: it reads into a staging buffer
  // and calls Decode.
  virtual bool needs_decode(int layer) const = 0;

  // Called with what each read of `key` gave (the extents, concatenated) before
  // it is used. A store with checksums compares them here.
  // Errors: DataLoss naming layer, expert and file.
  virtual absl::Status Check(ExpertKey /*key*/, std::span<const std::byte> /*stored*/) const {
    return absl::OkStatus();
  }

  // Fills `slot` (slot_bytes) from `stored` (the extents, concatenated).
  // Errors: DataLoss when the stored bytes cannot be right.
  // REQUIRES: needs_decode(key.layer)
  virtual absl::Status Decode(ExpertKey key, std::span<const std::byte> stored,
                              std::span<std::byte> slot) const = 0;
};

}  // namespace hostler
