#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;

DeltaNetSpec MakeSpec(int key_heads, int value_heads, int key_dim, int value_dim, int kernel) {
  DeltaNetSpec spec = {.key_heads = key_heads,
                       .value_heads = value_heads,
                       .key_dim = key_dim,
                       .value_dim = value_dim,
                       .kernel = kernel,
                       .conv = {},
                       .a_log = testing::RandomValues(value_heads, 1),
                       .dt_bias = testing::RandomValues(value_heads, 2)};
  spec.conv = testing::RandomValues(int64_t{spec.mixed_dim()} * kernel, 3, 0.6f);
  return spec;
}

// A layer's state in slots of several sequences, and steps over it.
class Fixture {
 public:
  static constexpr size_t kOffset = 48;  // of the layer in a slot
  static constexpr size_t kAfter = 20;   // bytes of the next layer

  Fixture(const DeltaNetSpec& spec, int slots)
      : spec_(spec),
        slot_bytes_((kOffset + spec.state_floats() * sizeof(float) + kAfter + 3) / 4 * 4),
        // What a slot held before must not show: NaN makes it.
        memory_(slot_bytes_ * slots / 4 + 1, std::nanf("")) {}

  struct Part {
    int sequence, position, rows;
  };

  // Inputs of a sequence's position do not depend on the step they are in.
  OwnedMat Inputs(int sequence, int position, int rows, int64_t cols, uint32_t salt) const {
    OwnedMat result(rows, cols);
    for (int i = 0; i < rows; ++i) {
      const std::vector<float> row =
          testing::RandomValues(cols, salt * 1000003u + sequence * 10007u + position + i);
      std::copy(row.begin(), row.end(), result.mat.row(i));
    }
    return result;
  }
  OwnedMat Mixed(const Part& p) const {
    return Inputs(p.sequence, p.position, p.rows, spec_.mixed_dim(), 1);
  }
  OwnedMat Beta(const Part& p) const {
    return Inputs(p.sequence, p.position, p.rows, spec_.value_heads, 2);
  }
  OwnedMat Decay(const Part& p) const {
    return Inputs(p.sequence, p.position, p.rows, spec_.value_heads, 3);
  }

  OwnedMat Step(Backend& backend, const std::vector<Part>& parts) {
    StepBatch batch;
    for (const Part& part : parts) {
      batch.sequences.push_back({.first_row = batch.rows(),
                                 .rows = part.rows,
                                 .first_position = part.position,
                                 .state = part.sequence});
      batch.tokens.resize(batch.tokens.size() + part.rows);
      batch.positions.resize(batch.tokens.size());
    }
    OwnedMat mixed(batch.rows(), spec_.mixed_dim());
    OwnedMat beta(batch.rows(), spec_.value_heads), decay(batch.rows(), spec_.value_heads);
    int row = 0;
    for (const Part& part : parts) {
      Put(Mixed(part), row, mixed);
      Put(Beta(part), row, beta);
      Put(Decay(part), row, decay);
      row += part.rows;
    }
    OwnedMat out(batch.rows(), int64_t{spec_.value_heads} * spec_.value_dim);
    backend.GatedDelta(spec_, batch, kOffset, mixed.mat, beta.mat, decay.mat,
                       {reinterpret_cast<std::byte*>(memory_.data()), slot_bytes_}, out.mat);
    return out;
  }

  // The outputs of a sequence's first `rows` rows, in double precision.
  std::vector<std::vector<double>> Expected(int sequence, int rows) const {
    const Part part = {sequence, 0, rows};
    const OwnedMat beta = Beta(part), decay = Decay(part);
    const std::vector<std::vector<double>> mixed = Convolved(Mixed(part));
    const int keys = spec_.key_heads * spec_.key_dim;
    std::vector<std::vector<double>> out(rows);
    for (int h = 0; h < spec_.value_heads; ++h) {
      const int key_head = h / (spec_.value_heads / spec_.key_heads);
      std::vector<double> state(spec_.key_dim * spec_.value_dim);
      for (int t = 0; t < rows; ++t) {
        const std::vector<double> q = Unit(&mixed[t][key_head * spec_.key_dim]);
        const std::vector<double> k = Unit(&mixed[t][keys + key_head * spec_.key_dim]);
        const double* v = &mixed[t][2 * keys + h * spec_.value_dim];
        const double g = -std::exp(double{spec_.a_log[h]}) *
                         std::log1p(std::exp(double{decay.mat.row(t)[h]} + spec_.dt_bias[h]));
        const double b = 1 / (1 + std::exp(-double{beta.mat.row(t)[h]}));
        for (int j = 0; j < spec_.value_dim; ++j) {
          double known = 0, result = 0;
          for (int i = 0; i < spec_.key_dim; ++i) {
            state[i * spec_.value_dim + j] *= std::exp(g);
            known += state[i * spec_.value_dim + j] * k[i];
          }
          for (int i = 0; i < spec_.key_dim; ++i) {
            state[i * spec_.value_dim + j] += k[i] * b * (v[j] - known);
            result += state[i * spec_.value_dim + j] * q[i];
          }
          out[t].push_back(result / std::sqrt(double(spec_.key_dim)));
        }
      }
    }
    return out;
  }

  void ExpectRight(const OwnedMat& out, const std::vector<Part>& parts) const {
    int row = 0;
    for (const Part& part : parts) {
      const auto expected = Expected(part.sequence, part.position + part.rows);
      for (int i = 0; i < part.rows; ++i, ++row) {
        for (size_t c = 0; c < expected[0].size(); ++c) {
          ASSERT_NEAR(out.mat.row(row)[c], expected[part.position + i][c], 5e-6)
              << "sequence " << part.sequence << " position " << part.position + i << " col " << c;
        }
      }
    }
  }

  // Whether the slot's bytes before and after the layer's are still untouched.
  void ExpectOthersUntouched(int slot) const {
    const std::byte* begin =
        reinterpret_cast<const std::byte*>(memory_.data()) + slot * slot_bytes_;
    const size_t end = kOffset + spec_.state_floats() * sizeof(float);
    for (size_t at = 0; at < slot_bytes_; at += at + 4 == kOffset ? end - at : 4) {
      float value;
      std::memcpy(&value, begin + at, sizeof value);
      EXPECT_TRUE(std::isnan(value)) << "byte " << at << " of slot " << slot;
    }
  }

 private:
  static void Put(const OwnedMat& from, int row, const OwnedMat& to) {
    std::copy(from.values.begin(), from.values.end(), to.mat.row(row));
  }
  std::vector<std::vector<double>> Convolved(const OwnedMat& mixed) const {
    std::vector<std::vector<double>> out(mixed.mat.rows);
    for (int64_t t = 0; t < mixed.mat.rows; ++t) {
      for (int c = 0; c < spec_.mixed_dim(); ++c) {
        double sum = 0;
        for (int j = 0; j < spec_.kernel; ++j) {
          const int64_t from = t - (spec_.kernel - 1) + j;
          if (from >= 0) sum += double{spec_.conv[c * spec_.kernel + j]} * mixed.mat.row(from)[c];
        }
        out[t].push_back(testing::Silu(sum));
      }
    }
    return out;
  }
  std::vector<double> Unit(const double* x) const {
    double squares = 1e-6;
    for (int i = 0; i < spec_.key_dim; ++i) squares += x[i] * x[i];
    std::vector<double> unit(x, x + spec_.key_dim);
    for (double& value : unit) value /= std::sqrt(squares);
    return unit;
  }

  DeltaNetSpec spec_;
  size_t slot_bytes_;
  std::vector<float> memory_;
};

class GatedDeltaTest : public testing::EveryIsa {};

TEST_P(GatedDeltaTest, MatchesTheDefinitionForManyShapes) {
  const DeltaNetSpec specs[] = {
      MakeSpec(1, 1, 1, 1, 1),    MakeSpec(2, 4, 16, 16, 4), MakeSpec(2, 2, 8, 20, 2),
      MakeSpec(1, 3, 33, 100, 4), MakeSpec(2, 6, 20, 80, 3), MakeSpec(4, 8, 32, 64, 4),
      MakeSpec(3, 3, 16, 17, 7),
  };
  for (const DeltaNetSpec& spec : specs) {
    SCOPED_TRACE(::testing::Message()
                 << spec.key_heads << "/" << spec.value_heads << " heads of " << spec.key_dim << "|"
                 << spec.value_dim << ", kernel " << spec.kernel);
    Fixture fixture(spec, 2);
    const std::vector<Fixture::Part> prompt = {{1, 0, 21}};
    fixture.ExpectRight(fixture.Step(*two_, prompt), prompt);
    for (int position : {21, 22, 23}) {
      const std::vector<Fixture::Part> decode = {{1, position, 1}};
      fixture.ExpectRight(fixture.Step(*one_, decode), decode);
    }
    fixture.ExpectOthersUntouched(1);
  }
}

TEST_P(GatedDeltaTest, KeepsTheSequencesOfAStepApart) {
  Fixture fixture(MakeSpec(2, 4, 24, 40, 4), 3);
  const std::vector<Fixture::Part> first = {{1, 0, 2}, {2, 0, 9}};
  fixture.ExpectRight(fixture.Step(*two_, first), first);
  const std::vector<Fixture::Part> second = {{2, 9, 1}, {0, 0, 5}, {1, 2, 7}};
  fixture.ExpectRight(fixture.Step(*two_, second), second);
}

TEST_P(GatedDeltaTest, ASlotBeginsAnewAtPositionZero) {
  Fixture fixture(MakeSpec(1, 2, 16, 16, 4), 1);
  const std::vector<Fixture::Part> prompt = {{0, 0, 12}};
  const OwnedMat first = fixture.Step(*one_, prompt);
  const OwnedMat again = fixture.Step(*one_, prompt);
  EXPECT_EQ(first.values, again.values);
}

TEST_P(GatedDeltaTest, APromptInChunksGivesTheSameBits) {
  const DeltaNetSpec spec = MakeSpec(4, 8, 32, 72, 4);
  Fixture whole(spec, 1);
  const OwnedMat expected = whole.Step(*one_, {{0, 0, 100}});
  for (int chunk : {1, 2, 3, 37}) {
    Fixture chunked(spec, 2);
    for (int at = 0; at < 100; at += chunk) {
      const int rows = std::min(chunk, 100 - at);
      const OwnedMat out = chunked.Step(*two_, {{1, at, 1}, {0, at, rows}});
      ASSERT_EQ(std::memcmp(out.mat.row(1), expected.mat.row(at), rows * out.mat.cols * 4), 0)
          << "chunks of " << chunk << " at " << at;
    }
  }
}

TEST_P(GatedDeltaTest, ExtremeLogitsForgetOrKeepAll) {
  DeltaNetSpec spec = MakeSpec(1, 1, 4, 4, 1);
  spec.a_log = {3};
  spec.dt_bias = {0};
  StepBatch batch;
  batch.sequences = {{.first_row = 0, .rows = 3, .first_position = 0, .state = 0}};
  batch.tokens.resize(3);
  batch.positions.resize(3);
  const OwnedMat mixed(3, spec.mixed_dim(), 4);
  OwnedMat beta(3, 1), decay(3, 1), out(3, 4);
  std::vector<float> state(spec.state_floats());
  for (float logit : {1000.0f, -1000.0f}) {
    std::fill_n(beta.mat.data, 3, logit);
    std::fill_n(decay.mat.data, 3, logit);
    one_->GatedDelta(spec, batch, 0, mixed.mat, beta.mat, decay.mat,
                     {reinterpret_cast<std::byte*>(state.data()), state.size() * 4}, out.mat);
    for (float value : out.values) EXPECT_TRUE(std::isfinite(value));
    // Nothing was ever taken in with beta 0.
    for (float value : out.values) EXPECT_TRUE(logit > 0 || value == 0);
  }
}

HOSTLER_FOR_EVERY_ISA(GatedDeltaTest);

}  // namespace
}  // namespace hostler
