#include "engine/model/pack.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "cache/reader.h"
#include "engine/base/checksum.h"
#include "engine/base/status.h"
#include "engine/compute/convert_weight.h"
#include "engine/model/decoder.h"
#include "engine/model/model_files.h"
#include "engine/model/pack_directory.h"
#include "engine/model/registry.h"
#include "engine/model/tensor_binder.h"
#include "fmt/format.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = size_t{8} << 20;
constexpr int64_t kBandRows = 128;  // FP8's scales are for bands of so many rows

constexpr std::array<std::pair<PackType, std::string_view>, 4> kTypes = {{{PackType::kKeep, "keep"},
                                                                          {PackType::kBF16, "bf16"},
                                                                          {PackType::kQ8, "q8"},
                                                                          {PackType::kQ4, "q4"}}};

// What LoadHfText reads.
constexpr std::array kTextFiles = {"tokenizer.json", "tokenizer_config.json",
                                   "chat_template.jinja"};

bool WiderThan(DType type, DType other) {
  const DTypeInfo &a = GetDTypeInfo(type), &b = GetDTypeInfo(other);
  return int64_t{a.block_bytes} * b.block_elements > int64_t{b.block_bytes} * a.block_elements;
}

// The type a matrix of `stored` and this width is packed in.
DType PackedType(PackType type, DType stored, int64_t cols) {
  const DType served = stored == DType::kF8E4M3 ? DType::kBF16 : stored;
  const bool blocks = cols % GetDTypeInfo(DType::kQ4_0).block_elements == 0;
  switch (type) {
    case PackType::kKeep:
      return served;
    case PackType::kBF16:
      return DType::kBF16;
    case PackType::kQ8:
      return QuantizedType(served, cols);
    case PackType::kQ4:
      return blocks && WiderThan(served, DType::kQ4_0) ? DType::kQ4_0 : served;
  }
  return served;
}

// The same on every machine, whatever its kernels read best.
ExpertLayout PackedLayout(PackType type, const ExpertLayout& from) {
  ExpertLayout to = WithTypes(from, PackedType(type, from.gate_type, from.dim),
                              PackedType(type, from.up_type, from.dim),
                              PackedType(type, from.down_type, from.ffn));
  to.interleaved = AnyInterleaves(to);
  return to;
}

// A tensor on its way to dense.bin.
struct PlannedTensor {
  const TensorInfo* from = nullptr;
  const TensorInfo* fp8_scales = nullptr;  // to be applied
  TensorInfo to;

  bool Changes() const { return to.dtype != from->dtype || to.interleaved != from->interleaved; }
};

class Packer {
 public:
  Packer(std::string path, const PackOptions& options)
      : path_(std::move(path)), options_(options) {}

  absl::StatusOr<PackSummary> Run(const std::string& target);

 private:
  absl::Status Open();
  void PlanTensors();
  void PlanTensor(const std::string& name, const TensorUse& use);
  void PlanExperts();

  absl::Status WriteDense();
  absl::Status CopyTensor(const PlannedTensor& tensor, PackFile* file, RunningChecksum* sum);
  absl::Status ConvertTensor(const PlannedTensor& tensor, PackFile* file, RunningChecksum* sum);
  absl::Status WriteExperts();
  absl::Status WriteExpert(ExpertKey key, PackFile* file);
  absl::Status WriteTexts();
  absl::Status WriteSmall(const std::string& name, std::string_view contents);
  absl::Status WriteManifest();

  // Reads, and adds what was read to the source's hash.
  absl::Status Read(const Extent& extent, std::vector<std::byte>* to, size_t at = 0);
  absl::Status Wrote(uint64_t bytes);

  const std::string path_;
  const PackOptions& options_;
  ModelFiles files_;
  std::unique_ptr<Reader> reader_;
  std::map<std::string, TensorUse> uses_;
  std::vector<PlannedTensor> tensors_;
  std::vector<ExpertLayout> from_layouts_, to_layouts_;  // [MoE layers]
  std::unique_ptr<ExpertStore> experts_;                 // null for a dense model
  std::unique_ptr<PackDirectory> directory_;
  PackedManifest manifest_;
  PackSummary summary_;
  RunningHash128 source_hash_;
  uint64_t total_bytes_ = 0;  // of dense.bin and experts.bin
  std::vector<uint64_t> expert_sums_;
  std::vector<std::byte> in_, slot_, out_;
  std::vector<float> values_;
};

absl::Status Packer::Read(const Extent& extent, std::vector<std::byte>* to, size_t at) {
  if (to->size() < at + extent.bytes) to->resize(at + extent.bytes);
  const std::span<std::byte> out = std::span(*to).subspan(at, extent.bytes);
  HOSTLER_RETURN_IF_ERROR(ReadNow(*reader_, {&extent, 1}, out));
  source_hash_.Add(out);
  summary_.read_bytes += extent.bytes;
  return absl::OkStatus();
}

absl::Status Packer::Wrote(uint64_t bytes) {
  summary_.written_bytes += bytes;
  const bool go_on =
      options_.progress == nullptr || options_.progress(summary_.written_bytes, total_bytes_);
  return go_on ? absl::OkStatus() : absl::CancelledError("interrupted");
}

absl::Status Packer::Open() {
  HOSTLER_ASSIGN_OR_RETURN(files_, OpenModelFiles(path_));
  const ModelInfo info = DescribeModel(path_, files_);
  if (!info.unsupported.empty()) {
    return absl::UnimplementedError(fmt::format("{}: cannot pack {}", path_, info.unsupported[0]));
  }
  HOSTLER_ASSIGN_OR_RETURN(DecoderConfig decoder, files_.Configure());
  // Experts as --quantize q8 holds them are just what it takes.
  auto parts = ListDecoderParts(std::move(decoder), files_.weights.get(),
                                {.quantize = options_.type == PackType::kQ8});
  if (!parts.ok()) {
    return absl::Status(parts.status().code(),
                        fmt::format("{}: {}", path_, std::string(parts.status().message())));
  }
  uses_ = std::move(parts->tensors);
  HOSTLER_ASSIGN_OR_RETURN(
      reader_, NewReader(files_.weights->files(), {.direct = DirectIo::kOff, .depth = 1}));
  for (const StoredExperts& layer : parts->experts) {
    from_layouts_.push_back(layer.layout);
    to_layouts_.push_back(PackedLayout(options_.type, layer.layout));
    manifest_.layers.emplace_back().name = layer.name;
  }
  if (!parts->experts.empty()) experts_ = NewExpertStore(std::move(parts->experts));
  summary_.source_format = manifest_.source_format = files_.weights->format();
  manifest_.config = files_.config;
  manifest_.generation = files_.generation;
  const bool packed_keep = options_.type == PackType::kKeep && files_.packed != nullptr;
  for (const auto& [type, name] : kTypes) {
    if (type == options_.type) manifest_.type = name;
  }
  // What is kept of a store includes what its type says of how it is loaded.
  if (packed_keep) manifest_.type = files_.packed->manifest().type;
  return absl::OkStatus();
}

void Packer::PlanTensor(const std::string& name, const TensorUse& use) {
  PlannedTensor tensor;
  tensor.from = files_.weights->Find(name);
  tensor.to = *tensor.from;
  const bool fp8 = tensor.from->dtype == DType::kF8E4M3;
  const TensorInfo* scales = fp8 ? files_.weights->Find(name + "_scale_inv") : nullptr;
  if (use.convertible) {
    const bool end = name == "model.embed_tokens.weight" || name == "lm_head.weight";
    const PackType type = end && options_.type == PackType::kQ4 ? PackType::kQ8 : options_.type;
    tensor.to.dtype = PackedType(type, tensor.from->dtype, use.cols);
    tensor.fp8_scales = scales;
    tensor.to.bytes = RowBytes(tensor.to.dtype, use.cols) * use.rows;
  }
  if (use.rows > 1) tensor.to.shape = {use.rows, use.cols};
  tensor.to.interleaved = LiesInterleaved(tensor.to.dtype, tensor.to.shape);
  tensors_.push_back(std::move(tensor));
  if (scales != nullptr && !use.convertible) tensors_.push_back({scales, nullptr, *scales});
}

// In the order of the source's bytes, which is how a disk reads fastest.
void Packer::PlanTensors() {
  for (const auto& [name, use] : uses_) PlanTensor(name, use);
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) {
    return std::tie(a.from->file, a.from->offset, a.from->name) <
           std::tie(b.from->file, b.from->offset, b.from->name);
  });
  uint64_t end = 0;
  for (PlannedTensor& tensor : tensors_) {
    const uint64_t a = kPackedTensorAlignment;
    tensor.to.file = 0;
    tensor.to.offset = (end + a - 1) / a * a;
    end = tensor.to.offset + tensor.to.bytes;
  }
  total_bytes_ += end;
}

void Packer::PlanExperts() {
  uint64_t end = 0;
  for (size_t i = 0; i < to_layouts_.size(); ++i) {
    const ExpertLayout& layout = to_layouts_[i];
    PackedLayer& layer = manifest_.layers[i];
    layer.count = experts_->num_experts(static_cast<int>(i));
    layer.dim = layout.dim;
    layer.ffn = layout.ffn;
    layer.gate = layout.gate_type;
    layer.up = layout.up_type;
    layer.down = layout.down_type;
    layer.biases = layout.gate_bias != ExpertLayout::kNone;
    layer.bytes = layout.bytes;
    const uint64_t a = kPackedExpertAlignment;
    layer.stride = (layout.bytes + a - 1) / a * a;
    layer.offset = std::exchange(end, end + layer.stride * layer.count);
    summary_.experts += layer.count;
  }
  total_bytes_ += end;
}

absl::Status Packer::CopyTensor(const PlannedTensor& tensor, PackFile* file, RunningChecksum* sum) {
  for (uint64_t done = 0; done < tensor.from->bytes;) {
    const uint64_t bytes = std::min<uint64_t>(kChunkBytes, tensor.from->bytes - done);
    HOSTLER_RETURN_IF_ERROR(Read({tensor.from->file, tensor.from->offset + done, bytes}, &in_));
    const auto chunk = std::span<const std::byte>(in_).first(bytes);
    sum->Add(chunk);
    HOSTLER_RETURN_IF_ERROR(file->Write(chunk));
    HOSTLER_RETURN_IF_ERROR(Wrote(bytes));
    done += bytes;
  }
  return absl::OkStatus();
}

absl::Status Packer::ConvertTensor(const PlannedTensor& tensor, PackFile* file,
                                   RunningChecksum* sum) {
  const int64_t rows = tensor.to.shape[0], cols = tensor.to.shape[1];
  const DType from = tensor.from->dtype, to = tensor.to.dtype;
  const size_t row_bytes = RowBytes(from, cols), out_row_bytes = RowBytes(to, cols);
  const int64_t step = std::max<int64_t>(1, kChunkBytes / row_bytes / kBandRows) * kBandRows;
  std::vector<std::byte> scales;
  if (const TensorInfo* stored = tensor.fp8_scales) {
    HOSTLER_RETURN_IF_ERROR(Read({stored->file, stored->offset, stored->bytes}, &scales));
  }
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const uint64_t bytes = row_bytes * count;
    HOSTLER_RETURN_IF_ERROR(
        Read({tensor.from->file, tensor.from->offset + first * row_bytes, bytes}, &in_));
    out_.resize(out_row_bytes * count);
    Weight stored{from, count, cols, in_.data(), tensor.from->interleaved};
    if (tensor.fp8_scales != nullptr) {
      ScaleFp8(in_.data(), scales.data() + first / kBandRows * Fp8ScaleBytes(1, cols), count, cols,
               &values_);
      stored = {DType::kF32, count, cols, std::as_bytes(std::span(values_)).data()};
    }
    ConvertWeight(stored, 0, {to, count, cols, nullptr, tensor.to.interleaved}, out_.data());
    sum->Add(out_);
    HOSTLER_RETURN_IF_ERROR(file->Write(out_));
    HOSTLER_RETURN_IF_ERROR(Wrote(out_.size()));
  }
  return absl::OkStatus();
}

absl::Status Packer::WriteDense() {
  HOSTLER_ASSIGN_OR_RETURN(auto file, PackFile::Create(directory_->PathOf(kPackedDense)));
  for (const PlannedTensor& tensor : tensors_) {
    HOSTLER_RETURN_IF_ERROR(file->PadTo(kPackedTensorAlignment));
    source_hash_.Add(tensor.from->name);
    RunningChecksum sum;
    HOSTLER_RETURN_IF_ERROR(tensor.Changes() ? ConvertTensor(tensor, file.get(), &sum)
                                             : CopyTensor(tensor, file.get(), &sum));
    manifest_.tensors.push_back(tensor.to);
    manifest_.tensor_checksums.push_back(sum.Get());
  }
  summary_.tensors = static_cast<int64_t>(tensors_.size());
  manifest_.files.push_back({kPackedDense, file->bytes(), std::nullopt});
  return file->Finish();
}

absl::Status Packer::WriteExpert(ExpertKey key, PackFile* file) {
  size_t filled = 0;
  for (const Extent& extent : experts_->extents(key)) {
    HOSTLER_RETURN_IF_ERROR(Read(extent, &in_, filled));
    filled += extent.bytes;
  }
  std::span<const std::byte> slot = std::span(in_).first(filled);
  HOSTLER_RETURN_IF_ERROR(experts_->Check(key, slot));
  if (experts_->needs_decode(key.layer)) {
    slot_.resize(experts_->slot_bytes(key.layer));
    HOSTLER_RETURN_IF_ERROR(experts_->Decode(key, slot, slot_));
    slot = slot_;
  }
  const ExpertLayout &from = from_layouts_[key.layer], &to = to_layouts_[key.layer];
  if (from.gate_type != to.gate_type || from.up_type != to.up_type ||
      from.down_type != to.down_type) {
    out_.resize(to.bytes);
    ConvertExpert(from, to, slot.data(), out_.data());
    slot = out_;
  }
  expert_sums_.push_back(Checksum(slot));
  HOSTLER_RETURN_IF_ERROR(file->Write(slot));
  HOSTLER_RETURN_IF_ERROR(file->PadTo(kPackedExpertAlignment));
  return Wrote(manifest_.layers[key.layer].stride);
}

absl::Status Packer::WriteExperts() {
  if (experts_ == nullptr) return absl::OkStatus();
  HOSTLER_ASSIGN_OR_RETURN(auto file, PackFile::Create(directory_->PathOf(kPackedExperts)));
  for (int layer = 0; layer < experts_->num_layers(); ++layer) {
    for (int expert = 0; expert < experts_->num_experts(layer); ++expert) {
      HOSTLER_RETURN_IF_ERROR(WriteExpert({layer, expert}, file.get()));
    }
  }
  manifest_.files.push_back({kPackedExperts, file->bytes(), std::nullopt});
  HOSTLER_RETURN_IF_ERROR(file->Finish());
  const auto sums = std::as_bytes(std::span(expert_sums_));
  return WriteSmall(kPackedChecksums, {reinterpret_cast<const char*>(sums.data()), sums.size()});
}

absl::Status Packer::WriteSmall(const std::string& name, std::string_view contents) {
  HOSTLER_ASSIGN_OR_RETURN(auto file, PackFile::Create(directory_->PathOf(name)));
  HOSTLER_RETURN_IF_ERROR(file->Write(contents));
  manifest_.files.push_back({name, contents.size(), Checksum(contents)});
  return file->Finish();
}

absl::Status Packer::WriteTexts() {
  const fs::path directory(path_);
  if (files_.gguf != nullptr) {
    const std::string from =
        files_.packed != nullptr ? (directory / kPackedGguf).string() : files_.weights->files()[0];
    HOSTLER_ASSIGN_OR_RETURN(const std::string metadata, CopyGgufMetadata(from));
    source_hash_.Add(metadata);
    return WriteSmall(kPackedGguf, metadata);
  }
  for (const char* name : kTextFiles) {
    const fs::path path = directory / name;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) continue;
    HOSTLER_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path.string()));
    const std::string text(reinterpret_cast<const char*>(file->bytes().data()),
                           file->bytes().size());
    HOSTLER_RETURN_IF_ERROR(file->Health());
    source_hash_.Add(text);
    HOSTLER_RETURN_IF_ERROR(WriteSmall(name, text));
  }
  return absl::OkStatus();
}

absl::Status Packer::WriteManifest() {
  summary_.source_hash = manifest_.source_hash = source_hash_.GetText();
  const std::string text = WritePackedManifest(manifest_);
  // A store that could not be opened must not be left behind.
  HOSTLER_RETURN_IF_ERROR(ParsePackedManifest(text, kPackedManifest).status());
  for (const auto& [name, contents] :
       {std::pair{kPackedManifestSum, ChecksumText(Checksum(text)) + "\n"},
        std::pair{kPackedManifest, text}}) {
    HOSTLER_ASSIGN_OR_RETURN(auto file, PackFile::Create(directory_->PathOf(name)));
    HOSTLER_RETURN_IF_ERROR(file->Write(contents));
    HOSTLER_RETURN_IF_ERROR(file->Finish());
  }
  return absl::OkStatus();
}

absl::StatusOr<PackSummary> Packer::Run(const std::string& target) {
  HOSTLER_RETURN_IF_ERROR(Open());
  PlanTensors();
  PlanExperts();
  HOSTLER_ASSIGN_OR_RETURN(directory_, PackDirectory::Create(target, options_.replace));
  HOSTLER_RETURN_IF_ERROR(directory_->CheckSpace(total_bytes_));
  for (const nlohmann::json* json : {&files_.config, &files_.generation}) {
    source_hash_.Add(json->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  HOSTLER_RETURN_IF_ERROR(WriteDense());
  HOSTLER_RETURN_IF_ERROR(WriteExperts());
  HOSTLER_RETURN_IF_ERROR(WriteTexts());
  HOSTLER_RETURN_IF_ERROR(WriteManifest());
  HOSTLER_RETURN_IF_ERROR(directory_->Commit());
  summary_.layers = static_cast<int64_t>(manifest_.layers.size());
  summary_.written_bytes = 0;
  for (const PackedFile& file : manifest_.files) summary_.written_bytes += file.bytes;
  return std::move(summary_);
}

}  // namespace

absl::StatusOr<PackType> ParsePackType(std::string_view name) {
  for (const auto& [type, type_name] : kTypes) {
    if (name == type_name) return type;
  }
  return absl::InvalidArgumentError(
      fmt::format("\"{}\" is not keep, bf16, q8 or q4", std::string(name)));
}

absl::StatusOr<PackSummary> PackModel(const std::string& path, const std::string& target,
                                      const PackOptions& options) {
  return Packer(path, options).Run(target);
}

absl::Status CheckPackedModel(const std::string& directory) {
  HOSTLER_ASSIGN_OR_RETURN(const ModelFiles files, OpenModelFiles(directory));
  HOSTLER_ASSIGN_OR_RETURN(DecoderConfig decoder, files.Configure());
  const absl::Status status =
      ListDecoderParts(std::move(decoder), files.weights.get(), {}).status();
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      fmt::format("{}: {}", directory, std::string(status.message())));
}

}  // namespace hostler
