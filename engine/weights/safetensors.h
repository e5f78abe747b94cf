// The safetensors file format: an 8-byte little-endian header length, a JSON
// header that names each tensor's type, shape and byte range, then the bytes.
// https://huggingface.co/docs/safetensors/en/index#format
//
// Both parsers are pure functions over hostile bytes. `path` only appears in
// their errors, each of which names it and the tensor at fault.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/source.h"

namespace hostler {

// A header (or index) longer than this is refused.
inline constexpr size_t kMaxSafetensorsHeaderBytes = 100'000'000;

// The tensors of the file whose contents are `file`, in the order of their
// offsets; TensorInfo::file is 0. Bytes that no tensor covers are allowed.
// Errors: InvalidArgument; Unimplemented for an unknown type.
absl::StatusOr<std::vector<TensorInfo>> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                               const std::string& path);

// The (tensor, shard) pairs of a model.safetensors.index.json, in its order.
// Shards are plain file names, without any directory. Errors: InvalidArgument.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseSafetensorsIndex(
    std::span<const std::byte> json, const std::string& path);

}  // namespace hostler
