#include "engine/embed/encoder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <utility>

#include "engine/base/checksum.h"
#include "engine/base/status.h"
#include "engine/text/json_fields.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// Tokens computed at a time when there are many texts.
constexpr int64_t kBatchRows = 512;

// A cut in the text may change the word it is in, of which there are no more tokens.
constexpr size_t kMostWordTokens = 100;

// What holds as many tokens of most texts; bytes of a text that are looked at, at most.
constexpr size_t kBytesPerToken = 6;
constexpr size_t kMostBytes = 32 << 10;

// Scales to unit length; false when that cannot be.
bool Normalize(std::span<float> values) {
  double squares = 0;
  for (float value : values) squares += double{value} * value;
  if (!std::isfinite(squares) || squares <= 0) return false;
  const double scale = 1 / std::sqrt(squares);
  for (float& value : values) value = static_cast<float>(value * scale);
  return true;
}

std::string Fingerprint(const WeightSource& weights, std::string_view tokenizer) {
  RunningHash128 hash;
  for (const TensorInfo& tensor : weights.tensors()) {
    hash.Add(fmt::format("{} {} {}\n", tensor.name, GetDTypeInfo(tensor.dtype).name,
                         tensor.ShapeString()));
    hash.Add(weights.Data(tensor));
  }
  hash.Add(tokenizer);
  return hash.GetText();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Encoder>> Encoder::Load(const std::string& directory,
                                                       const EncoderOptions& options) {
  std::unique_ptr<Encoder> encoder(new Encoder);
  encoder->directory_ = directory;
  HOSTLER_ASSIGN_OR_RETURN(encoder->config_, ReadEncoderConfig(directory));
  EncoderConfig& config = encoder->config_;
  if (options.max_tokens != 0) config.max_tokens = std::min(options.max_tokens, config.max_tokens);
  HOSTLER_ASSIGN_OR_RETURN(encoder->tokenizer_, LoadHfTokenizer(directory));
  if (encoder->tokenizer_->vocab_size() > config.vocabulary) {
    return absl::InvalidArgumentError(
        fmt::format("{}: the tokenizer has ids up to {}, the model a vocabulary of {}", directory,
                    encoder->tokenizer_->vocab_size() - 1, config.vocabulary));
  }
  // [CLS] and [SEP], between which a longer text is cut.
  const size_t added = encoder->tokenizer_->Encode("", {.add_special = true}).size();
  if (added == 0 || static_cast<int64_t>(added) >= config.max_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("{}: the tokenizer adds {} tokens to a text, which may have up to {}",
                    directory, added, config.max_tokens));
  }
  HOSTLER_ASSIGN_OR_RETURN(encoder->weights_, OpenSafetensors(directory));
  HOSTLER_ASSIGN_OR_RETURN(encoder->backend_,
                           NewCpuBackend(options.threads, options.exact ? "f32" : ""));
  encoder->max_rows_ = std::max<int64_t>(kBatchRows, config.max_tokens);
  HOSTLER_ASSIGN_OR_RETURN(encoder->bert_,
                           Bert::Load(config, *encoder->weights_, *encoder->backend_, options.exact,
                                      encoder->max_rows_));
  const std::string file = (std::filesystem::path(directory) / "tokenizer.json").string();
  HOSTLER_ASSIGN_OR_RETURN(const std::string tokenizer, ReadTextFile(file));
  encoder->fingerprint_ = Fingerprint(*encoder->weights_, tokenizer);
  HOSTLER_RETURN_IF_ERROR(encoder->weights_->Health());
  return encoder;
}

absl::Status Encoder::Encode(std::string_view text, std::span<float> out) {
  return Encode(std::span(&text, 1), out);
}

absl::Status Encoder::Encode(std::span<const std::string_view> texts, std::span<float> out) {
  const size_t width = static_cast<size_t>(config_.width);
  if (out.size() != texts.size() * width) {
    return absl::InvalidArgumentError(fmt::format("{} texts take {} values, not {}", texts.size(),
                                                  texts.size() * width, out.size()));
  }
  std::vector<std::vector<int32_t>> batch;
  int64_t rows = 0;
  float* next = out.data();
  const auto compute = [&] {
    std::lock_guard lock(mutex_);
    bert_->Encode(batch, next);
    next += batch.size() * width;
    batch.clear();
    rows = 0;
  };
  for (const std::string_view text : texts) {
    std::vector<int32_t> tokens = Tokens(text);
    const int64_t count = static_cast<int64_t>(tokens.size());
    if (rows + count > max_rows_) compute();
    rows += count;
    batch.push_back(std::move(tokens));
  }
  if (!batch.empty()) compute();
  HOSTLER_RETURN_IF_ERROR(weights_->Health());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (Normalize(out.subspan(i * width, width))) continue;
    return absl::DataLossError(fmt::format("{}: its weights give no finite embedding", directory_));
  }
  return absl::OkStatus();
}

// Only as much of a long text is cut into tokens as will be used.
std::vector<int32_t> Encoder::Tokens(std::string_view text) const {
  const size_t most = static_cast<size_t>(config_.max_tokens);
  std::vector<int32_t> tokens;
  for (size_t bytes = (most + kMostWordTokens) * kBytesPerToken;; bytes *= 2) {
    tokens = tokenizer_->Encode(text.substr(0, bytes), {.add_special = true});
    if (bytes >= text.size() || bytes >= kMostBytes) break;
    if (tokens.size() > most + kMostWordTokens) break;
  }
  if (tokens.size() > most) {
    // What is added at the end stays there: [SEP].
    tokens[most - 1] = tokens.back();
    tokens.resize(most);
  }
  return tokens;
}

}  // namespace hostler
