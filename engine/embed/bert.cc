#include "engine/embed/bert.h"

#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/base/status.h"
#include "engine/compute/step_batch.h"
#include "engine/model/work_arena.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int kBlockTokens = 16;

Mat Rows(Mat m, int64_t first, int64_t rows) { return {m.row(first), rows, m.cols}; }

}  // namespace

absl::StatusOr<std::unique_ptr<Bert>> Bert::Load(const EncoderConfig& config,
                                                 const WeightSource& weights, Backend& backend,
                                                 bool exact, int64_t max_rows) {
  std::unique_ptr<Bert> bert(new Bert(config, backend));
  TensorBinder binder(&weights, &backend, /*quantize=*/!exact, /*precise=*/exact);
  HOSTLER_RETURN_IF_ERROR(bert->Bind(binder, exact));
  for (std::unique_ptr<Buffer>& buffer : binder.TakeBuffers()) {
    bert->buffers_.push_back(std::move(buffer));
  }
  HOSTLER_RETURN_IF_ERROR(bert->Allocate(exact, max_rows));
  return bert;
}

absl::Status Bert::Bind(TensorBinder& binder, bool exact) {
  const int64_t width = config_.width;
  const bool tiled = !exact && backend_.HasMatMulBf16();
  const auto dense = [&](const std::string& name, int64_t out, int64_t in) {
    Dense dense;
    dense.bias = binder.Floats(name + ".bias", out);
    if (!tiled || !Bf16Tiles::Fits(out, in)) {
      dense.matrix = binder.Matrix(name + ".weight", out, in);
      return dense;
    }
    const std::vector<float> values = binder.Floats(name + ".weight", out, in);
    if (!binder.status().ok()) return dense;
    auto tiles = Pack(values, out, in);
    if (tiles.ok()) {
      dense.tiles = *tiles;
    } else {
      binder.Fail(tiles.status());
    }
    return dense;
  };
  const auto norm = [&](const std::string& name) {
    return Norm{binder.Vector(name + ".weight", width), binder.Vector(name + ".bias", width)};
  };
  const std::string embeddings = "embeddings.";
  tokens_ = binder.Table(embeddings + "word_embeddings.weight", config_.vocabulary, width);
  places_ = binder.Floats(embeddings + "position_embeddings.weight", config_.positions, width);
  const std::vector<float> segments =
      binder.Floats(embeddings + "token_type_embeddings.weight", config_.token_types, width);
  HOSTLER_RETURN_IF_ERROR(binder.status());
  for (size_t i = 0; i < places_.size(); ++i) places_[i] += segments[i % width];
  norm_ = norm(embeddings + "LayerNorm");
  for (int i = 0; i < config_.layers; ++i) {
    const std::string layer = fmt::format("encoder.layer.{}.", i);
    const std::string attention = layer + "attention.";
    layers_.push_back({.query = dense(attention + "self.query", width, width),
                       .key = dense(attention + "self.key", width, width),
                       .value = dense(attention + "self.value", width, width),
                       .attended = dense(attention + "output.dense", width, width),
                       .attention_norm = norm(attention + "output.LayerNorm"),
                       .up = dense(layer + "intermediate.dense", config_.ffn, width),
                       .down = dense(layer + "output.dense", width, config_.ffn),
                       .norm = norm(layer + "output.LayerNorm")});
    HOSTLER_RETURN_IF_ERROR(binder.status());
  }
  return absl::OkStatus();
}

absl::StatusOr<Bf16Tiles> Bert::Pack(const std::vector<float>& matrix, int64_t rows, int64_t cols) {
  Bf16Tiles tiles = {rows, cols, nullptr};
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend_.Allocate(tiles.bytes()));
  PackBf16Tiles(matrix.data(), rows, cols, buffer->data());
  tiles.data = buffer->data();
  buffers_.push_back(std::move(buffer));
  return tiles;
}

absl::Status Bert::Allocate(bool exact, int64_t max_rows) {
  const auto divide = [&](WorkArena arena) {
    x_ = arena.Matrix(max_rows, config_.width);
    q_ = arena.Matrix(max_rows, config_.width);
    k_ = arena.Matrix(max_rows, config_.width);
    v_ = arena.Matrix(max_rows, config_.width);
    sums_ = arena.Matrix(max_rows, config_.width);
    hidden_ = arena.Matrix(max_rows, config_.ffn);
    by_head_ = arena.Matrix(config_.max_tokens, config_.width);
    attended_ = arena.Matrix(config_.max_tokens, config_.width);
    return arena.bytes();
  };
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> work, backend_.Allocate(divide(WorkArena())));
  divide(WorkArena(reinterpret_cast<float*>(work->data())));
  buffers_.push_back(std::move(work));
  read_.resize(static_cast<size_t>(max_rows * config_.width));

  layout_ = {.layers = 1,
             .kv_heads = config_.heads,
             .k_dim = config_.head_width(),
             .v_dim = config_.head_width(),
             .block_tokens = kBlockTokens,
             .dtype = exact ? DType::kF32 : DType::kF16};
  blocks_.resize(static_cast<size_t>((config_.max_tokens + kBlockTokens - 1) / kBlockTokens));
  std::iota(blocks_.begin(), blocks_.end(), 0);
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> kv,
                           backend_.Allocate(blocks_.size() * layout_.block_bytes()));
  kv_ = {layout_, kv->data()};
  buffers_.push_back(std::move(kv));
  return absl::OkStatus();
}

void Bert::Encode(std::span<const std::vector<int32_t>> texts, float* out) {
  int64_t rows = 0;
  for (const std::vector<int32_t>& text : texts) rows += static_cast<int64_t>(text.size());
  const Mat x = x_.first_rows(rows), sums = sums_.first_rows(rows);
  const Mat q = q_.first_rows(rows), k = k_.first_rows(rows), v = v_.first_rows(rows);
  const Mat hidden = hidden_.first_rows(rows);
  // x = norm(x + y)
  const auto add_and_norm = [&](const Norm& norm, Mat y) {
    backend_.Add(x, y);
    backend_.LayerNorm(y, norm.gain, norm.bias, config_.epsilon, x);
  };
  Embed(texts, x);
  for (const Layer& layer : layers_) {
    Apply(layer.query, x, q);
    Apply(layer.key, x, k);
    Apply(layer.value, x, v);
    int first = 0;
    for (const std::vector<int32_t>& text : texts) {
      Attend(first, static_cast<int>(text.size()));
      first += static_cast<int>(text.size());
    }
    Apply(layer.attended, q, sums);
    add_and_norm(layer.attention_norm, sums);
    Apply(layer.up, x, hidden);
    backend_.Gelu(hidden);
    Apply(layer.down, hidden, sums);
    add_and_norm(layer.norm, sums);
  }
  backend_.ReadBack(x, read_.data()).IgnoreError();  // the CPU backend has none
  const float* row = read_.data();
  for (const std::vector<int32_t>& text : texts) {
    std::vector<double> sum(static_cast<size_t>(config_.width));
    for (size_t t = 0; t < text.size(); ++t, row += config_.width) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += row[i];
    }
    for (double value : sum) *out++ = static_cast<float>(value / static_cast<double>(text.size()));
  }
}

void Bert::Apply(const Dense& dense, Mat x, Mat y) {
  if (dense.tiles.data != nullptr) return backend_.MatMulBf16(dense.tiles, dense.bias.data(), x, y);
  backend_.MatMul(dense.matrix, x, y);
  const auto* bias = reinterpret_cast<const std::byte*>(dense.bias.data());
  backend_.AddBias({DType::kF32, 1, y.cols, bias}, y);
}

void Bert::Embed(std::span<const std::vector<int32_t>> texts, Mat x) {
  int64_t row = 0;
  for (const std::vector<int32_t>& text : texts) {
    const Mat part = Rows(x, row, static_cast<int64_t>(text.size()));
    backend_.Embed(tokens_, text, part);
    backend_.Add({places_.data(), part.rows, part.cols}, part);
    row += part.rows;
  }
  backend_.LayerNorm(x, norm_.gain, norm_.bias, config_.epsilon, x);
}

// The backend's attention is causal. A text's last token sees all of it; so every query
// of a head is handed over as one of so many heads of the last token, which share the
// head's keys and values.
void Bert::Attend(int first, int tokens) {
  const int heads = config_.heads, head_width = config_.head_width();
  const std::span<const int32_t> blocks(blocks_);
  StepBatch written;
  written.sequences.push_back({.first_row = first, .rows = tokens, .blocks = blocks});
  backend_.AppendKv(written, /*layer=*/0, k_, v_, kv_);

  const Mat queries = Rows(q_, first, tokens);
  const auto head_of = [&](Mat m, int64_t h) {
    return Mat{m.data + h * tokens * head_width, tokens, head_width};
  };
  for (int h = 0; h < heads; ++h) {
    backend_.CopyColumns(queries, int64_t{h} * head_width, head_width, /*heads=*/1,
                         head_of(by_head_, h), 0);
  }
  StepBatch last;
  last.sequences.push_back({.rows = 1, .first_position = tokens - 1, .blocks = blocks});
  const int64_t all = int64_t{tokens} * config_.width;
  const AttentionSpec spec = {.heads = heads * tokens,
                              .scale = 1 / std::sqrt(static_cast<float>(head_width))};
  backend_.Attention(spec, last, /*layer=*/0, {by_head_.data, 1, all}, kv_,
                     {attended_.data, 1, all});
  for (int h = 0; h < heads; ++h) {
    backend_.CopyColumns(head_of(attended_, h), 0, head_width, /*heads=*/1, queries,
                         int64_t{h} * head_width);
  }
}

}  // namespace hostler
