#include "engine/weights/mapped_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "engine/base/status.h"

namespace hostler {

const TensorInfo* MappedSource::Find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

std::span<const std::byte> MappedSource::Data(const TensorInfo& tensor) const {
  return files_[tensor.file]->bytes().subspan(tensor.offset, tensor.bytes);
}

void MappedSource::Release(std::span<const std::byte> data) const {
  for (const auto& file : files_) file->Release(data);
}

absl::Status MappedSource::Health() const {
  for (const auto& file : files_) HOSTLER_RETURN_IF_ERROR(file->Health());
  return absl::OkStatus();
}

int MappedSource::AddFile(std::unique_ptr<MappedFile> file) {
  paths_.push_back(file->path());
  files_.push_back(std::move(file));
  return static_cast<int>(files_.size()) - 1;
}

void MappedSource::SetTensors(std::vector<TensorInfo> tensors) {
  tensors_ = std::move(tensors);
  by_name_.reserve(tensors_.size());
  for (const TensorInfo& tensor : tensors_) by_name_.emplace(tensor.name, &tensor);
}

std::string Quoted(std::string_view name) {
  constexpr size_t kMaxShown = 200;
  std::string shown(name.substr(0, kMaxShown));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return fmt::format("\"{}\"{}", shown, name.size() > kMaxShown ? "..." : "");
}

absl::Status SortAndCheckOverlaps(std::vector<TensorInfo>* tensors, const std::string& path) {
  std::sort(tensors->begin(), tensors->end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  const TensorInfo* previous = nullptr;
  for (const TensorInfo& tensor : *tensors) {
    if (tensor.bytes == 0) continue;
    if (previous != nullptr && tensor.offset < previous->offset + previous->bytes) {
      return absl::InvalidArgumentError(fmt::format("{}: tensor {}: overlaps tensor {}", path,
                                                    Quoted(tensor.name), Quoted(previous->name)));
    }
    previous = &tensor;
  }
  return absl::OkStatus();
}

}  // namespace hostler
