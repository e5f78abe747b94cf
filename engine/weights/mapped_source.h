// MappedSource: what the file formats that map whole files have in common.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/weights/mapped_file.h"
#include "engine/weights/source.h"

namespace hostler {

class MappedSource : public WeightSource {
 public:
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  std::span<const std::string> files() const override { return paths_; }
  const TensorInfo* Find(std::string_view name) const override;
  std::span<const std::byte> Data(const TensorInfo& tensor) const override;
  void Release(std::span<const std::byte> data) const override;
  absl::Status Health() const override;

 protected:
  // Takes the next file; returns its index.
  int AddFile(std::unique_ptr<MappedFile> file);
  // Once, after the last file. REQUIRES: names differ
  void SetTensors(std::vector<TensorInfo> tensors);

 private:
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<std::string> paths_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, const TensorInfo*> by_name_;
};

// A name from a file, fit for an error message: quoted, of bounded length,
// without control characters.
std::string Quoted(std::string_view name);

// Sorts a file's tensors by offset. Empty tensors overlap nothing. Errors:
// InvalidArgument naming `path` and two tensors that overlap.
absl::Status SortAndCheckOverlaps(std::vector<TensorInfo>* tensors, const std::string& path);

}  // namespace hostler
