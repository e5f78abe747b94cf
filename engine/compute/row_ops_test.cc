#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

constexpr int64_t kWidths[] = {1, 15, 16, 17, 64, 130};

class RowOpsTest : public testing::EveryIsa {};

TEST_P(RowOpsTest, EmbedsRowsOfEveryWeightType) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const int64_t cols = type == DType::kQ8_0 ? 96 : 77;
    const OwnedWeight table(type, 11, cols, 1);
    const std::vector<int32_t> ids = {10, 0, 3, 3};
    OwnedMat out(4, cols);
    one_->Embed(table.weight, ids, out.mat);
    for (int64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(std::memcmp(out.mat.row(i), &table.values[ids[i] * cols], cols * 4), 0)
          << GetDTypeInfo(type).name;
    }
  }
}

TEST_P(RowOpsTest, NormalisesByTheRootMeanSquare) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t cols : kWidths) {
      const OwnedWeight gain(type, 1, cols, 1);
      OwnedMat x(7, cols, 2);
      OwnedMat out(7, cols);
      one_->RmsNorm(x.mat, gain.weight, 1e-5f, out.mat);
      for (int64_t r = 0; r < 7; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < cols; ++c) sum += double{x.mat.row(r)[c]} * x.mat.row(r)[c];
        const double scale = 1 / std::sqrt(sum / cols + 1e-5);
        for (int64_t c = 0; c < cols; ++c) {
          const double expected = x.mat.row(r)[c] * scale * gain.values[c];
          ASSERT_NEAR(out.mat.row(r)[c], expected, 1e-6 * std::fabs(expected) + 1e-9);
        }
      }
      one_->RmsNorm(x.mat, gain.weight, 1e-5f, x.mat);
      EXPECT_EQ(x.values, out.values) << "in place";
    }
  }
}

TEST_P(RowOpsTest, WithoutAGainNormsAsWithOnes) {
  for (int64_t cols : kWidths) {
    const OwnedMat x(5, cols, 2);
    OwnedMat ones(1, cols), out(5, cols), expected(5, cols);
    std::fill(ones.values.begin(), ones.values.end(), 1.0f);
    const Weight gain = {DType::kF32, 1, cols, reinterpret_cast<const std::byte*>(ones.mat.data)};
    one_->RmsNorm(x.mat, {}, 1e-5f, out.mat);
    one_->RmsNorm(x.mat, gain, 1e-5f, expected.mat);
    EXPECT_EQ(out.values, expected.values);
  }
}

TEST_P(RowOpsTest, LayerNormCentresAndScales) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t cols : kWidths) {
      const OwnedWeight gain(type, 1, cols, 1), bias(type, 1, cols, 2);
      OwnedMat x(7, cols, 3);
      for (float& value : x.values) value += 3;  // so that the mean matters
      OwnedMat out(7, cols);
      one_->LayerNorm(x.mat, gain.weight, bias.weight, 1e-5f, out.mat);
      for (int64_t r = 0; r < 7; ++r) {
        double mean = 0, variance = 0;
        for (float value : x.row(r)) mean += double{value} / cols;
        for (float value : x.row(r)) variance += (value - mean) * (value - mean) / cols;
        for (int64_t c = 0; c < cols; ++c) {
          const double unit = (x.mat.row(r)[c] - mean) / std::sqrt(variance + 1e-5);
          ASSERT_NEAR(out.mat.row(r)[c], unit * gain.values[c] + bias.values[c], 3e-6)
              << "column " << c << " of " << cols;
        }
      }
      one_->LayerNorm(x.mat, gain.weight, bias.weight, 1e-5f, x.mat);
      EXPECT_EQ(x.values, out.values) << "in place";
    }
  }
}

double Product(const ActivationSpec& spec, double gate, double up) {
  switch (spec.kind) {
    case Activation::kSilu:
      return testing::Silu(gate) * up;
    case Activation::kGeluTanh:
      return 0.5 * gate * up *
             (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate)));
    default:
      gate = std::min(gate, double{spec.limit});
      up = std::clamp<double>(up, -spec.limit, spec.limit);
      return gate / (1 + std::exp(-1.702 * gate)) * (up + 1);
  }
}

TEST_P(RowOpsTest, ActivationsFollowTheirDefinitionsFarOut) {
  const ActivationSpec specs[] = {{Activation::kSilu},
                                  {Activation::kGeluTanh},
                                  {Activation::kSwigluOai, 7},
                                  {Activation::kSwigluOai, 0.5f}};
  for (const ActivationSpec& spec : specs) {
    for (int64_t cols : kWidths) {
      OwnedMat gate(5, cols, 3);
      OwnedMat up(5, cols, 4);
      const float far[] = {-200, 200, 0, -3, 8};
      std::copy_n(far, 5, gate.values.begin());
      up.values[3] = 50;
      up.values[4] = -50;
      OwnedMat out(5, cols);
      one_->Activate(spec, gate.mat, up.mat, out.mat);
      for (size_t i = 0; i < out.values.size(); ++i) {
        const double expected = Product(spec, gate.values[i], up.values[i]);
        ASSERT_NEAR(out.values[i], expected, 3e-6 * std::fabs(expected) + 1e-30)
            << "kind " << static_cast<int>(spec.kind) << " of " << gate.values[i] << ", "
            << up.values[i];
      }
      OwnedMat also_up = up;
      one_->Activate(spec, gate.mat, also_up.mat, also_up.mat);
      EXPECT_EQ(also_up.values, out.values) << "in place of up";
      one_->Activate(spec, gate.mat, up.mat, gate.mat);
      EXPECT_EQ(gate.values, out.values) << "in place of gate";
    }
  }
}

TEST_P(RowOpsTest, GeluFollowsTheNormalDistribution) {
  std::vector<float> values = {0, -0.0f, 1e-30f, -1e-6f, 200, -200, 1e30f, -1e30f};
  for (float x = -14; x < 14; x += 0.0173f) values.push_back(x);
  OwnedMat x(1, static_cast<int64_t>(values.size()));
  x.values = values;
  x.mat.data = x.values.data();
  one_->Gelu(x.mat);
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = 0.5 * values[i] * std::erfc(-double{values[i]} * M_SQRT1_2);
    ASSERT_NEAR(x.values[i], expected, 1e-7 * (1 + std::fabs(values[i]))) << "of " << values[i];
  }
}

TEST_P(RowOpsTest, SoftCapFollowsTanhEverywhere) {
  std::vector<float> values = {0, -0.0f, 1e-30f, 1e-6f, 0.6249f, 0.625f, 0.6251f, 1e30f};
  for (float x = -12; x < 12; x += 0.0173f) values.push_back(x);
  const std::vector<float> more = testing::RandomValues(301, 5, 40);
  values.insert(values.end(), more.begin(), more.end());
  for (float cap : {1.0f, 30.0f, 50.0f}) {
    OwnedMat x(1, static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), x.mat.data);
    one_->SoftCap(cap, x.mat);
    for (size_t i = 0; i < values.size(); ++i) {
      const double expected = cap * std::tanh(double{values[i]} / cap);
      ASSERT_NEAR(x.values[i], expected, 3e-7 * std::fabs(expected)) << values[i];
    }
  }
}

TEST_P(RowOpsTest, AddsABiasOfEveryTypeToEachRow) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t cols : kWidths) {
      const OwnedWeight bias(type, 1, cols, 1);
      OwnedMat y(4, cols, 6);
      const OwnedMat before = y;
      one_->AddBias(bias.weight, y.mat);
      for (int64_t i = 0; i < 4 * cols; ++i) {
        EXPECT_EQ(y.values[i], before.values[i] + bias.values[i % cols]);
      }
    }
  }
}

TEST_P(RowOpsTest, ScalesAllAndRowByRow) {
  for (int64_t cols : kWidths) {
    OwnedMat x(4, cols, 6);
    OwnedMat rows = x;
    const OwnedMat before = x;
    const std::vector<float> factors = {2, -1, 0, 0.3f};
    one_->Scale(0.3f, x.mat);
    one_->ScaleRows(factors, rows.mat);
    for (int64_t i = 0; i < 4 * cols; ++i) {
      EXPECT_EQ(x.values[i], before.values[i] * 0.3f);
      EXPECT_EQ(rows.values[i], before.values[i] * factors[i / cols]);
    }
  }
}

TEST_P(RowOpsTest, SigmoidGatesRowsOrElements) {
  for (int64_t cols : kWidths) {
    OwnedMat rows(4, cols, 6);
    OwnedMat elements = rows;
    const OwnedMat before = rows;
    OwnedMat row_gate(4, 1, 7), element_gate(4, cols, 8);
    row_gate.values[2] = -300;
    element_gate.values[0] = 300;
    one_->SigmoidGate(row_gate.mat, rows.mat);
    one_->SigmoidGate(element_gate.mat, elements.mat);
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    for (int64_t i = 0; i < 4 * cols; ++i) {
      const double x = before.values[i];
      EXPECT_NEAR(rows.values[i], x * sigmoid(row_gate.values[i / cols]), 1e-6 * std::fabs(x));
      EXPECT_NEAR(elements.values[i], x * sigmoid(element_gate.values[i]), 1e-6 * std::fabs(x));
    }
  }
}

TEST_P(RowOpsTest, CopiesColumnsOfEveryHead) {
  const OwnedMat from(3, 2 * 10, 6);
  OwnedMat to(3, 2 * 7, 7);
  const OwnedMat before = to;
  one_->CopyColumns(from.mat, 4, 5, 2, to.mat, 1);
  for (int64_t r = 0; r < 3 * 2; ++r) {
    for (int64_t c = 0; c < 7; ++c) {
      const bool copied = c >= 1 && c < 6;
      EXPECT_EQ(to.values[r * 7 + c],
                copied ? from.values[r * 10 + 4 + c - 1] : before.values[r * 7 + c]);
    }
  }
}

TEST_P(RowOpsTest, ZeroesItsRowsOnly) {
  OwnedMat x(4, 5, 6);
  const OwnedMat before = x;
  one_->Zero(x.mat.first_rows(3));
  EXPECT_EQ(std::vector<float>(x.mat.data, x.mat.row(3)), std::vector<float>(15));
  EXPECT_EQ(x.row(3), before.row(3));
}

TEST_P(RowOpsTest, AddsInPlace) {
  for (int64_t cols : kWidths) {
    const OwnedMat x(4, cols, 5);
    OwnedMat y(4, cols, 6);
    const std::vector<float> before = y.values;
    one_->Add(x.mat, y.mat);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(y.values[i], before[i] + x.values[i]);
  }
}

TEST_P(RowOpsTest, RopeTurnsPairsByTheirAngle) {
  for (bool interleaved : {false, true}) {
    for (int first : {0, 3}) {
      const RopeSpec rope = {.inv_freq = {1.0f, 0.3f, 0.01f},
                             .first = first,
                             .interleaved = interleaved,
                             .scale = 1.2f};
      constexpr int kHeadDim = 10;  // four are not turned
      StepBatch batch;
      batch.positions = {0, 1, 77, 4095};
      OwnedMat x(4, 3 * kHeadDim, 7);
      const OwnedMat before = x;
      one_->Rope(rope, batch, kHeadDim, x.mat);
      for (int r = 0; r < 4; ++r) {
        for (int h = 0; h < 3; ++h) {
          const float* in = before.mat.row(r) + h * kHeadDim;
          const float* out = x.mat.row(r) + h * kHeadDim;
          for (int i = 0; i < 3; ++i) {
            const int a = first + (interleaved ? 2 * i : i);
            const int b = first + (interleaved ? 2 * i + 1 : i + 3);
            const double angle = static_cast<float>(batch.positions[r]) * rope.inv_freq[i];
            EXPECT_NEAR(out[a], 1.2 * (in[a] * std::cos(angle) - in[b] * std::sin(angle)), 2e-6);
            EXPECT_NEAR(out[b], 1.2 * (in[b] * std::cos(angle) + in[a] * std::sin(angle)), 2e-6);
          }
          for (int i = 0; i < kHeadDim; ++i) {
            if (i < first || i >= first + 6) {
              EXPECT_EQ(out[i], in[i]);
            }
          }
        }
      }
    }
  }
}

TEST_P(RowOpsTest, ClampKeepsWhatIsWithin) {
  OwnedMat x(1, 6);
  x.values = {-3, -0.5f, 0, 0.49f, 0.5f, 1e30f};
  x.mat.data = x.values.data();
  one_->Clamp(0.5f, x.mat);
  EXPECT_EQ(x.values, (std::vector<float>{-0.5f, -0.5f, 0, 0.49f, 0.5f, 0.5f}));
}

TEST_P(RowOpsTest, SequencesOfLongPromptsTurnByTheLongFrequencies) {
  const RopeSpec rope = {.inv_freq = {1.0f, 0.3f},
                         .long_inv_freq = {0.5f, 0.1f},
                         .short_context = 8,
                         .scale = 1.25f,
                         .long_scale = 1.5f};
  const RopeSpec short_rope = {.inv_freq = rope.inv_freq, .scale = 1.25f};
  const RopeSpec long_rope = {.inv_freq = rope.long_inv_freq, .scale = 1.5f};
  StepBatch batch;
  batch.positions = {3, 4, 5, 6, 7, 20};
  batch.sequences = {{.first_row = 0, .rows = 2, .first_position = 3, .prompt_tokens = 9},
                     {.first_row = 2, .rows = 3, .first_position = 5, .prompt_tokens = 8},
                     {.first_row = 5, .rows = 1, .first_position = 20, .prompt_tokens = 2000}};
  OwnedMat x(6, 2 * 4, 7);
  OwnedMat all_short = x, all_long = x;
  one_->Rope(rope, batch, 4, x.mat);
  one_->Rope(short_rope, batch, 4, all_short.mat);
  one_->Rope(long_rope, batch, 4, all_long.mat);
  for (int r = 0; r < 6; ++r) {
    EXPECT_EQ(x.row(r), r >= 2 && r < 5 ? all_short.row(r) : all_long.row(r)) << r;
  }
}

// Everything that works row by row, one after another.
void RunAll(Backend& backend, Mat x, Mat y) {
  const OwnedWeight gain(DType::kBF16, 1, x.cols, 1), bias(DType::kF16, 1, x.cols, 2);
  const std::vector<float> factors = testing::RandomValues(x.rows, 3);
  StepBatch batch;
  for (int r = 0; r < x.rows; ++r) batch.positions.push_back(5 + r);
  backend.RmsNorm(x, gain.weight, 1e-6f, y);
  backend.LayerNorm(y, gain.weight, bias.weight, 1e-6f, y);
  backend.AddBias(bias.weight, y);
  backend.Activate({Activation::kSilu}, x, y, y);
  backend.Activate({Activation::kGeluTanh}, y, x, y);
  backend.Activate({Activation::kSwigluOai, 3}, y, x, y);
  backend.Add(x, y);
  backend.Scale(1.1f, y);
  backend.ScaleRows(std::span(factors).first(x.rows), y);
  backend.SigmoidGate(x, y);
  backend.SigmoidGate({x.data, x.rows, 1}, y);
  backend.Rope({.inv_freq = {1, 0.5f, 0.25f}, .first = 1}, batch, 10, y);
  backend.CopyColumns(x, 2, 5, 20, y, 11);
  backend.SoftCap(2, y);
  backend.Clamp(1.5f, y);
}

TEST_P(RowOpsTest, LargeWorkOnTwoThreadsGivesTheSameBits) {
  const OwnedMat x(300, 1000, 2);
  OwnedMat a(300, 1000), b(300, 1000);
  RunAll(*one_, x.mat, a.mat);
  RunAll(*two_, x.mat, b.mat);
  EXPECT_EQ(std::memcmp(a.mat.data, b.mat.data, a.values.size() * sizeof(float)), 0);
  two_->Zero(b.mat);
  EXPECT_EQ(b.values, std::vector<float>(b.values.size()));
}

TEST_P(RowOpsTest, ARowsResultDoesNotDependOnTheOthers) {
  const OwnedMat x(300, 1000, 2);
  OwnedMat all(300, 1000), first(3, 1000);
  RunAll(*two_, x.mat, all.mat);
  RunAll(*one_, x.mat.first_rows(3), first.mat);
  EXPECT_EQ(std::memcmp(all.mat.data, first.mat.data, first.values.size() * sizeof(float)), 0);
}

TEST_P(RowOpsTest, GathersAndReadsBackRows) {
  const OwnedMat x(6, 5, 8);
  const std::vector<int32_t> rows = {5, 0, 5};
  OwnedMat out(3, 5);
  one_->GatherRows(x.mat, rows, out.mat);
  std::vector<float> host(15);
  ASSERT_TRUE(one_->ReadBack(out.mat, host.data()).ok());
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::vector<float>(host.begin() + 5 * i, host.begin() + 5 * i + 5), x.row(rows[i]));
  }
}

TEST_P(RowOpsTest, FindsTheStrongestOfEachRow) {
  if (one_->MostStrongest() == 0) GTEST_SKIP() << "looks through rows itself";
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int64_t cols : {1, 31, 1000, 1024, 1025, 40000}) {
    OwnedMat x(3, cols, 8);
    for (float& value : x.values) value = std::round(value * 100) / 100;  // many are equal
    for (int64_t i = 2; i < cols; i += 97) x.mat.row(1)[i] = i % 2 == 0 ? 0.0f : -0.0f;
    x.mat.row(2)[0] = -infinity;
    x.mat.row(2)[cols / 2] = infinity;
    x.mat.row(2)[cols - 1] = std::nanf("");
    for (const int count : {1, 8, one_->MostStrongest()}) {
      if (count > cols) continue;
      std::vector<LogitCandidate> found(3 * count);
      one_->Strongest(x.mat, count, found.data());
      for (int row = 0; row < 3; ++row) {
        std::vector<int32_t> ids(cols);
        std::iota(ids.begin(), ids.end(), 0);
        const float* values = x.mat.row(row);
        std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
          if (std::isnan(values[b])) return false;
          return std::isnan(values[a]) || values[a] > values[b];
        });
        for (int i = 0; i < count; ++i) {
          const LogitCandidate& c = found[row * count + i];
          ASSERT_EQ(c.id, ids[i]) << cols << ", row " << row << ", " << i;
          if (!std::isnan(c.logit)) {
            ASSERT_EQ(c.logit, values[c.id]);
          }
        }
      }
    }
  }
}

HOSTLER_FOR_EVERY_ISA(RowOpsTest);

TEST(CpuBackendTest, MemoryIsAlignedAndZeroed) {
  const std::unique_ptr<Backend> backend = testing::NewBackend(1, "");
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, size_t{5} << 20}) {
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend->Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ((*buffer)->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
    for (size_t i = 0; i < bytes; i += 997) EXPECT_EQ((*buffer)->data()[i], std::byte{0});
    if (bytes > 0) (*buffer)->data()[bytes - 1] = std::byte{1};
  }
}

TEST(CpuBackendTest, TooMuchMemoryIsAnError) {
  const std::unique_ptr<Backend> backend = testing::NewBackend(1, "");
  for (size_t bytes : {SIZE_MAX, SIZE_MAX / 2, size_t{1} << 60}) {
    EXPECT_EQ(backend->Allocate(bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(CpuBackendTest, RefusesWhatItCannotRun) {
  EXPECT_EQ(NewCpuBackend(1, "mmx").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(NewCpuBackend(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(testing::NewBackend(1, "portable")->name(), "cpu-portable");
}

}  // namespace
}  // namespace hostler
