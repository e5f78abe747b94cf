#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>

#include "engine/compute/dequantize.h"
#include "engine/compute/half.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;

struct Shape {
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;  // of keys, and of values unless v_dim says otherwise
  int v_dim = 0;
  bool v_in_k = false;
  int block_tokens = 16;
  DType dtype = DType::kF32;
  int window = 0, chunk = 0;
  float soft_cap = 0;
  bool sinks = false;

  int value_dim() const { return v_dim > 0 ? v_dim : head_dim; }
  AttentionSpec Spec() const {
    AttentionSpec spec = {
        .heads = heads, .scale = 0.3f, .window = window, .chunk = chunk, .soft_cap = soft_cap};
    // Below the scores, among them and far above.
    for (int h = 0; sinks && h < heads; ++h) spec.sinks.push_back(h % 3 == 2 ? 9 : 2 * h - 3);
    return spec;
  }
  bool Sees(int from, int position) const {
    return position <= from && (window == 0 || from - position < window) &&
           (chunk == 0 || from / chunk == position / chunk);
  }
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.heads << "/" << s.kv_heads << " heads of " << s.head_dim << "|" << s.value_dim()
       << (s.v_in_k ? " (shared)" : "") << ", blocks of " << s.block_tokens << " "
       << GetDTypeInfo(s.dtype).name << ", window " << s.window << ", chunk " << s.chunk
       << ", soft cap " << s.soft_cap << (s.sinks ? ", sinks" : "");
}

// KV memory of several sequences, their blocks interleaved, and steps over it.
class Fixture {
 public:
  static constexpr int kLayers = 2;
  static constexpr int kLayer = 1;
  static constexpr int kMostTokens = 640;

  Fixture(const Shape& shape, int sequences, int most_tokens = kMostTokens)
      : shape_(shape), blocks_(sequences) {
    layout_ = {.layers = kLayers,
               .kv_heads = shape.kv_heads,
               .k_dim = shape.head_dim,
               .v_dim = shape.value_dim(),
               .v_in_k = shape.v_in_k,
               .block_tokens = shape.block_tokens,
               .dtype = shape.dtype};
    const int each = most_tokens / shape.block_tokens + 1;
    for (int b = 0; b < each; ++b) {
      for (int s = 0; s < sequences; ++s) blocks_[s].push_back((each - 1 - b) * sequences + s);
    }
    // What a block held before must never show: NaN makes it.
    memory_.assign(layout_.block_bytes() * each * sequences, std::byte{0xff});
  }

  // q, k and v of a sequence's position do not depend on the step they are in.
  OwnedMat Rows(int sequence, int position, int rows, int cols, uint32_t salt) const {
    OwnedMat result(rows, cols);
    for (int i = 0; i < rows; ++i) {
      const std::vector<float> row = testing::RandomValues(
          result.mat.cols, salt * 1000003u + sequence * 1009u + position + i, 0.7f);
      std::copy(row.begin(), row.end(), result.mat.row(i));
    }
    return result;
  }

  struct Part {
    int sequence, position, rows;
  };

  // Appends and attends one step of these parts; returns the outputs.
  OwnedMat Step(Backend& backend, const std::vector<Part>& parts) {
    StepBatch batch;
    for (const Part& part : parts) {
      const int needed = (part.position + part.rows - 1) / shape_.block_tokens + 1;
      batch.sequences.push_back(
          {.first_row = batch.rows(),
           .rows = part.rows,
           .first_position = part.position,
           .blocks = std::span<const int32_t>(blocks_[part.sequence]).first(needed)});
      for (int i = 0; i < part.rows; ++i) {
        batch.tokens.push_back(0);
        batch.positions.push_back(part.position + i);
      }
    }
    OwnedMat q(batch.rows(), q_cols()), k(batch.rows(), k_cols()), v(batch.rows(), v_cols());
    int row = 0;
    for (const Part& part : parts) {
      Put(Rows(part.sequence, part.position, part.rows, q_cols(), 1), row, q);
      Put(Rows(part.sequence, part.position, part.rows, k_cols(), 2), row, k);
      Put(Rows(part.sequence, part.position, part.rows, v_cols(), 3), row, v);
      if (part.sequence == 0 && infinite_ >= part.position &&
          infinite_ < part.position + part.rows) {
        // More than f16 can hold.
        std::fill_n(v.mat.row(row + infinite_ - part.position), v.mat.cols, 1e30f);
      }
      row += part.rows;
    }
    const KvView kv = {layout_, memory_.data()};
    OwnedMat out(batch.rows(), int64_t{shape_.heads} * shape_.value_dim());
    backend.AppendKv(batch, kLayer, k.mat, shape_.v_in_k ? Mat{} : v.mat, kv);
    backend.Attention(shape_.Spec(), batch, kLayer, q.mat, kv, out.mat);
    tolerance_ = 3e-6;
    if (backend.name().find("amx") != std::string_view::npos && shape_.dtype != DType::kF32) {
      // Products of bf16 lose some 2^-18.5 of each q·k term, of either sign; over all the
      // scores of a test that adds up to six times the standard deviation.
      constexpr double kTermLoss = 2.7e-6;
      const double term = 0.7 * 0.7 * shape_.Spec().scale;
      tolerance_ += 6 * kTermLoss * term * std::sqrt(std::max(shape_.head_dim, 32));
    }
    return out;
  }

  // From now on the first sequence's value at this position is infinite.
  void MakeInfinite(int position) { infinite_ = position; }

  // Makes NaN of a sequence's keys and values before this position.
  void Forget(int sequence, int position) {
    for (int p = 0; p < position; ++p) {
      std::byte* block =
          memory_.data() + layout_.block_bytes() * blocks_[sequence][p / layout_.block_tokens];
      const int at = p % layout_.block_tokens;
      for (int head = 0; head < layout_.kv_heads; ++head) {
        const size_t k_bytes = layout_.k_bytes() / layout_.block_tokens;
        const size_t v_bytes = layout_.v_bytes() / layout_.block_tokens;
        std::memset(block + layout_.k_offset(kLayer, head) + at * k_bytes, 0xff, k_bytes);
        std::memset(block + layout_.v_offset(kLayer, head) + at * v_bytes, 0xff, v_bytes);
      }
    }
  }

  void ExpectRight(const OwnedMat& out, const std::vector<Part>& parts) const {
    int row = 0;
    for (const Part& part : parts) {
      const int end = part.position + part.rows;
      const OwnedMat q = Rows(part.sequence, part.position, part.rows, q_cols(), 1);
      const OwnedMat k = Stored(Rows(part.sequence, 0, end, k_cols(), 2));
      const OwnedMat v = shape_.v_in_k ? k : Stored(Rows(part.sequence, 0, end, v_cols(), 3));
      for (int i = 0; i < part.rows; ++i, ++row) {
        const std::vector<double> expected = Expected(part.position + i, q.mat.row(i), k, v);
        for (size_t c = 0; c < expected.size(); ++c) {
          ASSERT_NEAR(out.mat.row(row)[c], expected[c], tolerance_)
              << "sequence " << part.sequence << " position " << part.position + i << " col " << c;
        }
      }
    }
  }

 private:
  int q_cols() const { return shape_.heads * shape_.head_dim; }
  int k_cols() const { return shape_.kv_heads * shape_.head_dim; }
  int v_cols() const { return shape_.kv_heads * shape_.value_dim(); }
  // The output of one position, in double precision.
  std::vector<double> Expected(int position, const float* q, const OwnedMat& k,
                               const OwnedMat& v) const {
    const AttentionSpec spec = shape_.Spec();
    std::vector<double> out;
    for (int h = 0; h < shape_.heads; ++h) {
      const int kv_head = h / (shape_.heads / shape_.kv_heads);
      const int k_column = kv_head * shape_.head_dim;
      const int v_column = kv_head * (shape_.v_in_k ? shape_.head_dim : shape_.value_dim());
      std::vector<double> weights;
      double sum = spec.sinks.empty() ? 0 : std::exp(spec.sinks[h]);
      for (int t = 0; t <= position; ++t) {
        double score = 0;
        for (int d = 0; d < shape_.head_dim; ++d) {
          score += double{q[h * shape_.head_dim + d]} * k.mat.row(t)[k_column + d];
        }
        score *= spec.scale;
        if (spec.soft_cap > 0) score = spec.soft_cap * std::tanh(score / spec.soft_cap);
        weights.push_back(shape_.Sees(position, t) ? std::exp(score) : 0);
        sum += weights.back();
      }
      for (int d = 0; d < shape_.value_dim(); ++d) {
        double value = 0;
        for (int t = 0; t <= position; ++t) value += weights[t] / sum * v.mat.row(t)[v_column + d];
        out.push_back(value);
      }
    }
    return out;
  }

  static void Put(const OwnedMat& from, int row, const OwnedMat& to) {
    std::copy(from.values.begin(), from.values.end(), to.mat.row(row));
  }
  // What is read back of keys or values.
  OwnedMat Stored(OwnedMat m) const {
    const int64_t dim = m.mat.cols / shape_.kv_heads;
    for (int64_t at = 0; at < static_cast<int64_t>(m.values.size()); at += dim) {
      float* head = m.values.data() + at;
      if (shape_.dtype == DType::kQ8_0) {
        std::vector<float> blocks((dim + 31) / 32 * 32);
        std::copy_n(head, dim, blocks.begin());
        std::vector<std::byte> bytes(RowBytes(DType::kQ8_0, blocks.size()));
        QuantizeQ8_0(blocks.data(), blocks.size(), bytes.data());
        ConvertToF32(DType::kQ8_0, bytes.data(), blocks.size(), blocks.data());
        std::copy_n(blocks.begin(), dim, head);
      } else if (shape_.dtype != DType::kF32) {
        for (int64_t d = 0; d < dim; ++d) {
          head[d] = shape_.dtype == DType::kF16 ? F16ToF32(F32ToF16(head[d]))
                                                : Bf16ToF32(F32ToBf16(head[d]));
        }
      }
    }
    return m;
  }

  Shape shape_;
  int infinite_ = -1;
  double tolerance_ = 0;  // of the last step's results
  KvLayout layout_;
  std::vector<std::vector<int32_t>> blocks_;
  std::vector<std::byte> memory_;
};

class AttentionTest : public testing::EveryIsa {
 protected:
  // A prompt of more rows than a thread takes at once, then a decode row.
  void ExpectRightAcrossSteps(const Shape& shape) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    Fixture fixture(shape, 1);
    const std::vector<Fixture::Part> prompt = {{0, 0, 53}};
    fixture.ExpectRight(fixture.Step(*two_, prompt), prompt);
    const std::vector<Fixture::Part> decode = {{0, 53, 1}};
    fixture.ExpectRight(fixture.Step(*one_, decode), decode);
  }
};

TEST_P(AttentionTest, MatchesTheDefinitionForManyShapes) {
  const Shape shapes[] = {
      {},
      {.dtype = DType::kF16},
      {.dtype = DType::kBF16},
      {.heads = 1, .kv_heads = 1, .head_dim = 8},
      {.heads = 6, .kv_heads = 6, .head_dim = 20, .block_tokens = 5},
      {.heads = 14, .kv_heads = 2, .head_dim = 64, .block_tokens = 32, .dtype = DType::kF16},
      {.heads = 8, .kv_heads = 1, .head_dim = 128, .block_tokens = 1},
      {.heads = 70, .kv_heads = 1, .head_dim = 16},
      {.heads = 3, .kv_heads = 3, .head_dim = 80, .block_tokens = 48},
      {.dtype = DType::kQ8_0},
      {.heads = 12, .kv_heads = 4, .head_dim = 80, .block_tokens = 7, .dtype = DType::kQ8_0},
      {.heads = 1, .kv_heads = 1, .head_dim = 33, .v_dim = 20, .dtype = DType::kQ8_0},
  };
  for (const Shape& shape : shapes) ExpectRightAcrossSteps(shape);
  for (int group = 1; group <= 20; ++group) {
    ExpectRightAcrossSteps(
        {.heads = group, .kv_heads = 1, .head_dim = 16, .block_tokens = 8, .dtype = DType::kF16});
  }
}

TEST_P(AttentionTest, ValuesMayBeNarrowerOrWiderThanKeys) {
  const Shape shapes[] = {
      {.head_dim = 48, .v_dim = 32},
      {.head_dim = 24, .v_dim = 130, .block_tokens = 7},
      {.heads = 2, .kv_heads = 2, .head_dim = 33, .v_dim = 5, .dtype = DType::kF16},
  };
  for (const Shape& shape : shapes) ExpectRightAcrossSteps(shape);
}

TEST_P(AttentionTest, AKeysFirstDimensionsCanBeItsValue) {
  const Shape shapes[] = {
      {.heads = 40, .kv_heads = 1, .head_dim = 72, .v_dim = 64, .v_in_k = true},
      {.heads = 4, .kv_heads = 2, .head_dim = 25, .v_dim = 19, .v_in_k = true, .block_tokens = 3},
      {.heads = 3, .kv_heads = 1, .head_dim = 16, .v_in_k = true, .dtype = DType::kBF16},
      {.heads = 5,
       .kv_heads = 1,
       .head_dim = 72,
       .v_dim = 64,
       .v_in_k = true,
       .dtype = DType::kQ8_0},
      {.heads = 16,
       .kv_heads = 1,
       .head_dim = 576,
       .v_dim = 512,
       .v_in_k = true,
       .dtype = DType::kF16},
  };
  for (const Shape& shape : shapes) {
    EXPECT_EQ(KvLayout({.kv_heads = 1, .k_dim = 8, .v_dim = 8, .v_in_k = true}).v_bytes(), 0u);
    ExpectRightAcrossSteps(shape);
  }
}

TEST_P(AttentionTest, ARowSeesOnlyItsWindowOrChunk) {
  for (int block_tokens : {1, 5, 16, 64}) {
    for (int span : {1, 2, 7, 16, 17, 33, 54, 1000}) {
      ExpectRightAcrossSteps({.head_dim = 8, .block_tokens = block_tokens, .window = span});
      ExpectRightAcrossSteps({.head_dim = 8, .block_tokens = block_tokens, .chunk = span});
    }
  }
  ExpectRightAcrossSteps({.block_tokens = 4, .window = 9, .chunk = 12});
}

TEST_P(AttentionTest, WhatARowDoesNotSeeIsNotRead) {
  for (int block_tokens : {5, 16}) {
    Fixture window({.block_tokens = block_tokens, .dtype = DType::kF16, .window = 11}, 1);
    window.Step(*one_, {{0, 0, 53}});
    window.Forget(0, 53 - 10);
    const std::vector<Fixture::Part> next = {{0, 53, 20}};
    window.ExpectRight(window.Step(*two_, next), next);

    Fixture chunk({.block_tokens = block_tokens, .dtype = DType::kF16, .chunk = 22}, 1);
    chunk.Step(*one_, {{0, 0, 53}});
    chunk.Forget(0, 44);
    chunk.ExpectRight(chunk.Step(*two_, next), next);
  }
}

TEST_P(AttentionTest, SoftCapAndSinksFollowTheirDefinitions) {
  ExpectRightAcrossSteps({.soft_cap = 1.5f});
  ExpectRightAcrossSteps({.head_dim = 20, .block_tokens = 5, .soft_cap = 0.2f});
  ExpectRightAcrossSteps({.heads = 8, .sinks = true});
  ExpectRightAcrossSteps({.heads = 70, .kv_heads = 1, .head_dim = 16, .sinks = true});
  ExpectRightAcrossSteps(
      {.heads = 6, .block_tokens = 7, .window = 8, .soft_cap = 2, .sinks = true});
}

TEST_P(AttentionTest, ASinkFarAboveTheScoresLeavesAlmostNothing) {
  StepBatch batch;
  const std::vector<int32_t> blocks = {0};
  batch.tokens = batch.positions = {0};
  batch.sequences.push_back({.first_row = 0, .rows = 1, .first_position = 0, .blocks = blocks});
  const KvLayout layout = {
      .layers = 1, .kv_heads = 1, .k_dim = 4, .v_dim = 4, .dtype = DType::kF32};
  std::vector<std::byte> memory(layout.block_bytes());
  const OwnedMat q(1, 12, 1), k(1, 4, 2), v(1, 4, 3);
  OwnedMat out(1, 12);
  one_->AppendKv(batch, 0, k.mat, v.mat, {layout, memory.data()});
  const float infinity = std::numeric_limits<float>::infinity();
  one_->Attention({.heads = 3, .scale = 1, .sinks = {300, -300, -infinity}}, batch, 0, q.mat,
                  {layout, memory.data()}, out.mat);
  for (int d = 0; d < 4; ++d) {
    EXPECT_EQ(out.values[d], 0);
    EXPECT_EQ(out.values[4 + d], v.values[d]);
    EXPECT_EQ(out.values[8 + d], v.values[d]);
  }
}

TEST_P(AttentionTest, KeepsTheSequencesOfAStepApart) {
  Fixture fixture({.dtype = DType::kF16}, 3);
  const std::vector<Fixture::Part> first = {{1, 0, 17}, {0, 0, 40}};
  fixture.ExpectRight(fixture.Step(*two_, first), first);
  const std::vector<Fixture::Part> second = {{0, 40, 1}, {2, 0, 33}, {1, 17, 20}};
  fixture.ExpectRight(fixture.Step(*two_, second), second);
}

TEST_P(AttentionTest, APromptInChunksGivesTheSameBits) {
  const Shape shapes[] = {
      {.heads = 10, .kv_heads = 2, .head_dim = 48, .dtype = DType::kBF16},
      {.heads = 10, .head_dim = 40, .v_dim = 24, .dtype = DType::kF16, .window = 13},
      {.heads = 10, .head_dim = 20, .chunk = 24, .soft_cap = 3},
      {.heads = 2, .kv_heads = 2, .head_dim = 64, .block_tokens = 16, .dtype = DType::kBF16},
      {.heads = 3, .kv_heads = 3, .head_dim = 40, .dtype = DType::kF16, .window = 13},
      {.heads = 10, .kv_heads = 1, .head_dim = 40, .v_dim = 24, .v_in_k = true, .sinks = true},
  };
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    Fixture whole(shape, 1);
    const OwnedMat expected = whole.Step(*one_, {{0, 0, 100}});
    for (int chunk : {1, 3, 16, 37}) {
      Fixture chunked(shape, 2);
      for (int at = 0; at < 100; at += chunk) {
        const int rows = std::min(chunk, 100 - at);
        const OwnedMat out = chunked.Step(*two_, {{1, at / 2, 1}, {0, at, rows}});
        ASSERT_EQ(std::memcmp(out.mat.row(1), expected.mat.row(at), rows * out.mat.cols * 4), 0)
            << "chunks of " << chunk << " at " << at;
      }
    }
  }
}

// Contexts of more than one span (kAttentionSpan), and their edges.
const Shape kLongShapes[] = {
    {.heads = 2,
     .kv_heads = 2,
     .head_dim = 64,
     .block_tokens = 16,
     .dtype = DType::kBF16,
     .window = 300,
     .sinks = true},
    {.heads = 2, .kv_heads = 2, .head_dim = 24, .dtype = DType::kF16, .chunk = 270, .soft_cap = 9},
    {.heads = 2, .kv_heads = 1, .dtype = DType::kF16},
    {.heads = 6, .kv_heads = 3, .head_dim = 24, .block_tokens = 5, .dtype = DType::kQ8_0},
    {.heads = 20, .kv_heads = 1, .head_dim = 16, .dtype = DType::kBF16, .window = 300},
    {.heads = 1, .kv_heads = 1, .head_dim = 40, .v_dim = 72, .block_tokens = 32, .chunk = 270},
    {.heads = 9,
     .kv_heads = 1,
     .head_dim = 72,
     .v_dim = 64,
     .v_in_k = true,
     .dtype = DType::kF16,
     .soft_cap = 3,
     .sinks = true},
};

TEST_P(AttentionTest, LongContextsMatchTheDefinition) {
  const std::vector<Fixture::Part> steps[] = {{{0, 0, 254}}, {{0, 254, 1}}, {{0, 255, 1}},
                                              {{0, 256, 1}}, {{0, 257, 2}}, {{0, 259, 252}},
                                              {{0, 511, 1}}, {{0, 512, 3}}, {{0, 515, 100}}};
  for (const Shape& shape : kLongShapes) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    Fixture fixture(shape, 1);
    for (const auto& parts : steps) fixture.ExpectRight(fixture.Step(*two_, parts), parts);
  }
}

TEST_P(AttentionTest, ALongPromptInChunksGivesTheSameBits) {
  constexpr int kTokens = 600;
  const std::unique_ptr<Backend> five = testing::NewBackend(5, GetParam());
  for (const Shape& shape : kLongShapes) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    Fixture whole(shape, 1);
    const OwnedMat expected = whole.Step(*one_, {{0, 0, kTokens}});
    for (int chunk : {1, 100, 256, 511}) {
      Fixture chunked(shape, 2);
      Backend& backend = chunk == 100 ? *five : *two_;
      for (int at = 0; at < kTokens; at += chunk) {
        const int rows = std::min(chunk, kTokens - at);
        std::vector<Fixture::Part> parts = {{0, at, rows}};
        if (chunk > 1) parts.insert(parts.begin(), {1, at / 2, 1});
        const OwnedMat out = chunked.Step(backend, parts);
        ASSERT_EQ(std::memcmp(out.mat.row(out.mat.rows - rows), expected.mat.row(at),
                              rows * out.mat.cols * 4),
                  0)
            << "chunks of " << chunk << " at " << at;
      }
    }
  }
}

// Rows of a long context by themselves, which a device may compute otherwise than many.
TEST_P(AttentionTest, ARowByItselfGivesTheBitsItGivesAmongMany) {
  constexpr int kTokens = 1100;
  for (const Shape& shape : {Shape{}, Shape{.dtype = DType::kF16, .window = 600, .sinks = true},
                             Shape{.heads = 3, .kv_heads = 1, .head_dim = 48, .soft_cap = 5}}) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    Fixture fixture(shape, 2, kTokens);
    const OwnedMat all = fixture.Step(*two_, {{0, 0, kTokens}, {1, 0, 20}});
    for (const int position : {510, 511, 512, 1023, 1024, kTokens - 2}) {
      const OwnedMat two = fixture.Step(*one_, {{0, position, 2}, {1, 7, 1}});
      for (int row = 0; row < 2; ++row) {
        const float* expected = all.mat.row(position + row);
        ASSERT_TRUE(std::equal(expected, expected + all.mat.cols, two.mat.row(row))) << position;
      }
      const float* other = all.mat.row(kTokens + 7);
      ASSERT_TRUE(std::equal(other, other + all.mat.cols, two.mat.row(2))) << position;
    }
  }
}

TEST_P(AttentionTest, AnInfiniteValueReachesOnlyRowsThatSeeIt) {
  constexpr int kRows = 300, kInfinite = 270, kWindow = 20;
  const Shape shape = {.heads = 3, .kv_heads = 1, .dtype = DType::kF16, .window = kWindow};
  Fixture fixture(shape, 1), without(shape, 1);
  fixture.MakeInfinite(kInfinite);
  const OwnedMat out = fixture.Step(*two_, {{0, 0, kRows}});
  const OwnedMat expected = without.Step(*one_, {{0, 0, kRows}});
  for (int row = 0; row < kRows; ++row) {
    const bool sees = row >= kInfinite && row < kInfinite + kWindow;
    EXPECT_EQ(std::isfinite(out.mat.row(row)[0]), !sees) << row;
    if (sees) continue;
    EXPECT_EQ(std::memcmp(out.mat.row(row), expected.mat.row(row), out.mat.cols * 4), 0) << row;
  }
}

TEST_P(AttentionTest, SurvivesScoresFarApart) {
  Fixture fixture({.heads = 1, .kv_heads = 1, .head_dim = 16}, 1);
  StepBatch batch;
  const std::vector<int32_t> blocks = {0, 1};
  batch.tokens.assign(32, 0);
  batch.positions.assign(32, 0);
  batch.sequences.push_back({.first_row = 0, .rows = 32, .first_position = 0, .blocks = blocks});
  const KvLayout layout = {
      .layers = 1, .kv_heads = 1, .k_dim = 16, .v_dim = 16, .dtype = DType::kF32};
  std::vector<std::byte> memory(layout.block_bytes() * 2);
  OwnedMat q(32, 16), k(32, 16), v(32, 16), out(32, 16);
  for (int t = 0; t < 32; ++t) {
    q.mat.row(t)[0] = 1;
    k.mat.row(t)[0] = t == 20 ? 500.0f : -500.0f;
    for (int d = 0; d < 16; ++d) v.mat.row(t)[d] = static_cast<float>(t);
  }
  one_->AppendKv(batch, 0, k.mat, v.mat, {layout, memory.data()});
  one_->Attention({.heads = 1, .scale = 1}, batch, 0, q.mat, {layout, memory.data()}, out.mat);
  EXPECT_NEAR(out.mat.row(19)[3], 9.5f, 1e-5);  // equal scores: the mean of 0..19
  EXPECT_EQ(out.mat.row(31)[3], 20.0f);
}

TEST_P(AttentionTest, AppendedValuesAreRoundedToNearestEven) {
  const std::vector<float> values = {
      1.0f,  1.00048828125f, 1.00146484375f, 1.00390625f, 1.01171875f,
      65520, -3e-8f,         5.9604645e-8f,  1e30f,       NAN};
  StepBatch batch;
  const std::vector<int32_t> blocks = {0};
  batch.tokens = {0};
  batch.positions = {0};
  batch.sequences.push_back({.first_row = 0, .rows = 1, .first_position = 0, .blocks = blocks});
  const int n = static_cast<int>(values.size());
  OwnedMat k(1, n), v(1, n);
  k.values = values;
  k.mat.data = k.values.data();
  for (DType type : {DType::kF16, DType::kBF16}) {
    const KvLayout layout = {.layers = 1, .kv_heads = 1, .k_dim = n, .v_dim = n, .dtype = type};
    std::vector<std::byte> memory(layout.block_bytes());
    one_->AppendKv(batch, 0, k.mat, v.mat, {layout, memory.data()});
    for (int i = 0; i < n; ++i) {
      uint16_t bits;
      std::memcpy(&bits, memory.data() + 2 * i, 2);
      EXPECT_EQ(bits, type == DType::kF16 ? F32ToF16(values[i]) : F32ToBf16(values[i])) << i;
    }
  }
}

HOSTLER_FOR_EVERY_ISA(AttentionTest);

}  // namespace
}  // namespace hostler
