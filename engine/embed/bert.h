// BERT's encoder on a backend: token ids → one pooled vector a text.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/compute/backend.h"
#include "engine/embed/encoder_config.h"
#include "engine/kv/layout.h"
#include "engine/model/tensor_binder.h"
#include "engine/weights/source.h"

namespace hostler {

// Post-norm transformer layers in which every token attends to all of its text. Used by
// one thread at a time, as its backend.
class Bert {
 public:
  // `backend` and `weights`, of which small tensors stay mapped, must outlive it. With
  // `exact` all is held and multiplied in f32, else the table of tokens is q8_0, other
  // matrices bf16, or q8_0 where the backend or their shapes have no MatMulBf16, and KV f16.
  // `max_rows`: tokens of all texts of one Encode(). Errors: InvalidArgument or
  // Unimplemented naming the tensor; ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Bert>> Load(const EncoderConfig& config,
                                                    const WeightSource& weights, Backend& backend,
                                                    bool exact, int64_t max_rows);

  // out [texts, width]: the mean over a text's last hidden states. REQUIRES: 1 to
  // config.max_tokens tokens a text, no more than max_rows in all, ids of the vocabulary
  void Encode(std::span<const std::vector<int32_t>> texts, float* out);

 private:
  struct Dense {
    Bf16Tiles tiles;  // or, where the backend has no MatMulBf16:
    Weight matrix;
    std::vector<float> bias;
  };
  struct Norm {
    Weight gain, bias;
  };
  struct Layer {
    Dense query, key, value, attended;
    Norm attention_norm;
    Dense up, down;
    Norm norm;
  };

  Bert(const EncoderConfig& config, Backend& backend) : config_(config), backend_(backend) {}
  absl::Status Bind(TensorBinder& binder, bool exact);
  absl::StatusOr<Bf16Tiles> Pack(const std::vector<float>& matrix, int64_t rows, int64_t cols);
  absl::Status Allocate(bool exact, int64_t max_rows);
  void Apply(const Dense& dense, Mat x, Mat y);
  void Embed(std::span<const std::vector<int32_t>> texts, Mat x);
  // Of one text, whose queries, keys and values are in q_, k_ and v_ from `first` on;
  // the result takes the queries' place.
  void Attend(int first, int tokens);

  const EncoderConfig config_;
  Backend& backend_;
  Weight tokens_;
  std::vector<float> places_;  // [positions, width]: position and first segment
  Norm norm_;
  std::vector<Layer> layers_;
  std::vector<std::unique_ptr<Buffer>> buffers_;

  // Work: x_, q_, k_, v_, sums_ [max_rows, width], hidden_ [max_rows, ffn], and of one
  // text at a time its heads' queries and results, and its keys and values in blocks.
  Mat x_, q_, k_, v_, sums_, hidden_, by_head_, attended_;
  std::vector<float> read_;  // x_ on the host
  KvLayout layout_;
  KvView kv_;
  std::vector<int32_t> blocks_;  // 0, 1, ...
};

}  // namespace hostler
