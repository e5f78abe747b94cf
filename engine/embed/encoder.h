// Encoder: a sentence encoder of the BERT family, text → embedding.
//
// What Reimers and Gurevych 2019 (sentence-transformers) compute: the mean of the last
// hidden states, scaled to unit length, so that a dot product is the cosine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/compute/backend.h"
#include "engine/embed/bert.h"
#include "engine/embed/encoder_config.h"
#include "engine/embed/fifo_mutex.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/source.h"

namespace hostler {

struct EncoderOptions {
  int threads = 2;
  // Tokens of a text, at most; 0: as many as the model takes. Fewer take less time.
  int max_tokens = 0;
  // All in f32; otherwise matrices are held in 8 bits and multiplied as integers.
  bool exact = false;
};

// Thread-safe: texts are cut into tokens side by side, and computed one call after
// another in the order of asking, each by all threads.
class Encoder {
 public:
  // Loads a Hugging Face directory (config.json, tokenizer.json, safetensors) of a BERT
  // encoder. Errors: NotFound; InvalidArgument naming the file and what is wrong with
  // it; Unimplemented naming what is not supported; ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Encoder>> Load(const std::string& directory,
                                                       const EncoderOptions& options = {});

  int dimensions() const { return config_.width; }
  int max_tokens() const { return config_.max_tokens; }
  // Names the weights and the tokenizer by content: embeddings of encoders whose
  // fingerprints differ are not to be compared.
  const std::string& fingerprint() const { return fingerprint_; }

  // out [dimensions()] of unit length. A text longer than max_tokens() is cut. The same
  // text gives the same embedding, whatever is encoded beside it. Errors: DataLoss when
  // the mapped file is damaged or gives no finite embedding.
  absl::Status Encode(std::string_view text, std::span<float> out);
  // out [texts, dimensions()].
  absl::Status Encode(std::span<const std::string_view> texts, std::span<float> out);

 private:
  Encoder() = default;
  std::vector<int32_t> Tokens(std::string_view text) const;

  EncoderConfig config_;
  std::string directory_;
  std::string fingerprint_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<WeightSource> weights_;
  int64_t max_rows_ = 0;

  FifoMutex mutex_;  // of what is below
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Bert> bert_;
};

}  // namespace hostler
