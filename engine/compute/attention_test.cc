#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/compute/half.h"
#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;

struct Shape {
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int block_tokens = 16;
  DType dtype = DType::kF32;
};

// KV memory of several sequences, their blocks interleaved, and steps over it.
class Fixture {
 public:
  static constexpr int kLayers = 2;
  static constexpr int kLayer = 1;
  static constexpr int kMostTokens = 120;

  Fixture(const Shape& shape, int sequences) : shape_(shape), blocks_(sequences) {
    layout_ = {.layers = kLayers,
               .kv_heads = shape.kv_heads,
               .k_dim = shape.head_dim,
               .v_dim = shape.head_dim,
               .block_tokens = shape.block_tokens,
               .dtype = shape.dtype};
    const int each = kMostTokens / shape.block_tokens + 1;
    for (int b = 0; b < each; ++b) {
      for (int s = 0; s < sequences; ++s) blocks_[s].push_back((each - 1 - b) * sequences + s);
    }
    // What a block held before must never show: NaN makes it.
    memory_.assign(layout_.block_bytes() * each * sequences, std::byte{0xff});
  }

  // q, k and v of a sequence's position do not depend on the step they are in.
  OwnedMat Rows(int sequence, int position, int rows, int heads, uint32_t salt) const {
    OwnedMat result(rows, int64_t{heads} * shape_.head_dim);
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
    OwnedMat q(batch.rows(), shape_.heads * shape_.head_dim);
    OwnedMat k(batch.rows(), shape_.kv_heads * shape_.head_dim);
    OwnedMat v(batch.rows(), shape_.kv_heads * shape_.head_dim);
    int row = 0;
    for (const Part& part : parts) {
      Put(Rows(part.sequence, part.position, part.rows, shape_.heads, 1), row, q);
      Put(Rows(part.sequence, part.position, part.rows, shape_.kv_heads, 2), row, k);
      Put(Rows(part.sequence, part.position, part.rows, shape_.kv_heads, 3), row, v);
      row += part.rows;
    }
    const KvView kv = {layout_, memory_.data()};
    OwnedMat out(batch.rows(), q.mat.cols);
    backend.AppendKv(batch, kLayer, k.mat, v.mat, kv);
    backend.Attention({.heads = shape_.heads, .scale = 0.3f}, batch, kLayer, q.mat, kv, out.mat);
    return out;
  }

  // The output of one position, in double precision.
  std::vector<double> Expected(int sequence, int position) const {
    const OwnedMat q = Rows(sequence, position, 1, shape_.heads, 1);
    const OwnedMat k = Stored(Rows(sequence, 0, position + 1, shape_.kv_heads, 2));
    const OwnedMat v = Stored(Rows(sequence, 0, position + 1, shape_.kv_heads, 3));
    std::vector<double> out;
    for (int h = 0; h < shape_.heads; ++h) {
      const int column = h / (shape_.heads / shape_.kv_heads) * shape_.head_dim;
      std::vector<double> weights;
      double sum = 0;
      for (int t = 0; t <= position; ++t) {
        double dot = 0;
        for (int d = 0; d < shape_.head_dim; ++d) {
          dot += double{q.mat.row(0)[h * shape_.head_dim + d]} * k.mat.row(t)[column + d];
        }
        weights.push_back(std::exp(dot * 0.3f));
        sum += weights.back();
      }
      for (int d = 0; d < shape_.head_dim; ++d) {
        double value = 0;
        for (int t = 0; t <= position; ++t) value += weights[t] / sum * v.mat.row(t)[column + d];
        out.push_back(value);
      }
    }
    return out;
  }

  void ExpectRight(const OwnedMat& out, const std::vector<Part>& parts) const {
    int row = 0;
    for (const Part& part : parts) {
      for (int i = 0; i < part.rows; ++i, ++row) {
        const std::vector<double> expected = Expected(part.sequence, part.position + i);
        for (size_t c = 0; c < expected.size(); ++c) {
          ASSERT_NEAR(out.mat.row(row)[c], expected[c], 3e-6)
              << "sequence " << part.sequence << " position " << part.position + i << " col " << c;
        }
      }
    }
  }

 private:
  static void Put(const OwnedMat& from, int row, const OwnedMat& to) {
    std::copy(from.values.begin(), from.values.end(), to.mat.row(row));
  }
  OwnedMat Stored(OwnedMat m) const {
    if (shape_.dtype == DType::kF32) return m;
    for (float& x : m.values) {
      x = shape_.dtype == DType::kF16 ? F16ToF32(F32ToF16(x)) : Bf16ToF32(F32ToBf16(x));
    }
    return m;
  }

  Shape shape_;
  KvLayout layout_;
  std::vector<std::vector<int32_t>> blocks_;
  std::vector<std::byte> memory_;
};

class AttentionTest : public testing::EveryIsa {};

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
  };
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(::testing::Message() << shape.heads << "/" << shape.kv_heads << " heads of "
                                      << shape.head_dim << ", blocks of " << shape.block_tokens);
    Fixture fixture(shape, 1);
    const std::vector<Fixture::Part> prompt = {{0, 0, 53}};
    fixture.ExpectRight(fixture.Step(*two_, prompt), prompt);
    const std::vector<Fixture::Part> decode = {{0, 53, 1}};
    fixture.ExpectRight(fixture.Step(*one_, decode), decode);
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
  const Shape shape = {.heads = 10, .kv_heads = 2, .head_dim = 48, .dtype = DType::kBF16};
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
