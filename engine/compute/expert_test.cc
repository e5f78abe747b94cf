#include <cmath>
#include <cstring>
#include <numeric>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

class GateTest : public testing::EveryIsa {};

TEST_P(GateTest, ChoosesTheStrongestByProbability) {
  for (int64_t experts : {3, 8, 16, 60, 128}) {
    const OwnedMat logits(9, experts, 7);
    ExpertSelection selection;
    two_->SelectExperts({.top_k = 3, .normalize = false}, logits.mat, &selection);
    ASSERT_EQ(selection.offsets.size(), 10u);
    for (int64_t r = 0; r < 9; ++r) {
      const float* row = logits.mat.row(r);
      std::vector<int> order(static_cast<size_t>(experts));
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
      double sum = 0;
      for (int64_t e = 0; e < experts; ++e) sum += std::exp(double{row[e]});
      ASSERT_EQ(selection.offsets[r], 3 * r);
      for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(selection.experts[3 * r + i], order[i]);
        EXPECT_NEAR(selection.weights[3 * r + i], std::exp(double{row[order[i]]}) / sum, 1e-6);
      }
    }
  }
}

TEST_P(GateTest, NormalizedWeightsSumToOne) {
  const OwnedMat logits(5, 32, 8);
  ExpertSelection selection;
  one_->SelectExperts({.top_k = 8, .normalize = true}, logits.mat, &selection);
  for (int r = 0; r < 5; ++r) {
    const float* weights = selection.weights.data() + 8 * r;
    EXPECT_NEAR(std::accumulate(weights, weights + 8, 0.0), 1, 1e-6);
  }
}

TEST_P(GateTest, EqualScoresGoToTheLowerIndex) {
  OwnedMat logits(1, 6);
  logits.values = {1, 2, 1, 2, 2, 0};
  logits.mat.data = logits.values.data();
  ExpertSelection selection;
  one_->SelectExperts({.top_k = 4}, logits.mat, &selection);
  EXPECT_EQ(selection.experts, (std::vector<int32_t>{1, 3, 4, 0}));
}

TEST_P(GateTest, NamesDifferentExpertsEvenForNaN) {
  OwnedMat logits(1, 4);
  logits.values = {NAN, 1, NAN, 3};
  logits.mat.data = logits.values.data();
  ExpertSelection selection;
  one_->SelectExperts({.top_k = 4}, logits.mat, &selection);
  std::sort(selection.experts.begin(), selection.experts.end());
  EXPECT_EQ(selection.experts, (std::vector<int32_t>{0, 1, 2, 3}));
}

HOSTLER_FOR_EVERY_ISA(GateTest);

// Some experts in their slots, and a step's rows given to them unequally.
class ExpertFfnTest : public testing::EveryIsa {
 protected:
  static constexpr int64_t kDim = 96;
  static constexpr int64_t kFfn = 160;

  struct Slot {
    Slot(DType type, uint32_t seed)
        : gate(type, kFfn, kDim, seed),
          up(type, kFfn, kDim, seed + 1),
          down(type, kDim, kFfn, seed + 2) {
      for (const OwnedWeight* w : {&gate, &up, &down}) {
        bytes.insert(bytes.end(), w->bytes.begin(), w->bytes.end());
      }
    }
    OwnedWeight gate, up, down;
    std::vector<std::byte> bytes;
  };

  static std::vector<double> Expected(const Slot& slot, const float* x) {
    std::vector<double> hidden(kFfn), out(kDim);
    for (int64_t f = 0; f < kFfn; ++f) {
      double gate = 0, up = 0;
      for (int64_t d = 0; d < kDim; ++d) {
        gate += double{x[d]} * slot.gate.values[f * kDim + d];
        up += double{x[d]} * slot.up.values[f * kDim + d];
      }
      hidden[f] = testing::Silu(gate) * up;
    }
    for (int64_t d = 0; d < kDim; ++d) {
      for (int64_t f = 0; f < kFfn; ++f) out[d] += hidden[f] * slot.down.values[d * kFfn + f];
    }
    return out;
  }
};

TEST_P(ExpertFfnTest, ComputesUnequalTasksTogether) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const Slot slots[] = {{type, 10}, {type, 20}, {type, 30}, {type, 40}};
    const ExpertLayout layout = ExpertLayout::Packed(kDim, kFfn, type, type, type);
    EXPECT_EQ(layout.bytes, slots[0].bytes.size());
    const OwnedMat x(80, kDim, 5);
    std::vector<int32_t> all(80);
    std::iota(all.begin(), all.end(), 0);
    // Rows 0..69 go to expert 0, 70 to 1, none to 2, nine others to 3; results backwards.
    std::vector<int32_t> out_rows(all.rbegin(), all.rend());
    const std::span<const int32_t> in(all), to(out_rows);
    const std::vector<ExpertTask> tasks = {
        {slots[0].bytes.data(), in.subspan(0, 70), to.subspan(0, 70)},
        {slots[1].bytes.data(), in.subspan(70, 1), to.subspan(70, 1)},
        {slots[2].bytes.data(), {}, {}},
        {slots[3].bytes.data(), in.subspan(3, 9), to.subspan(71, 9)}};
    OwnedMat out(80, kDim);
    two_->ExpertFfn(layout, tasks, x.mat, out.mat);
    const int expert_of_task[] = {0, 1, 2, 3};
    for (size_t i = 0; i < tasks.size(); ++i) {
      for (size_t t = 0; t < tasks[i].in_rows.size(); ++t) {
        const std::vector<double> expected =
            Expected(slots[expert_of_task[i]], x.mat.row(tasks[i].in_rows[t]));
        for (int64_t d = 0; d < kDim; ++d) {
          ASSERT_NEAR(out.mat.row(tasks[i].out_rows[t])[d], expected[d], 5e-4) << i << " " << t;
        }
      }
    }
  }
}

TEST_P(ExpertFfnTest, ARowsResultDoesNotDependOnTheOthers) {
  const Slot slot(DType::kQ8_0, 50);
  const ExpertLayout layout =
      ExpertLayout::Packed(kDim, kFfn, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0);
  const OwnedMat x(70, kDim, 6);
  std::vector<int32_t> rows(70);
  std::iota(rows.begin(), rows.end(), 0);
  OwnedMat together(70, kDim), alone(70, kDim), steps(1, kDim);
  const ExpertTask all = {slot.bytes.data(), rows, rows};
  two_->ExpertFfn(layout, {&all, 1}, x.mat, together.mat);
  for (size_t r = 0; r < 70; ++r) {
    const std::span<const int32_t> row(&rows[r], 1);
    const ExpertTask task = {slot.bytes.data(), row, row};
    one_->ExpertFfn(layout, {&task, 1}, x.mat, alone.mat);
  }
  EXPECT_EQ(alone.values, together.values);

  // The same as the operations one after another.
  OwnedMat gate(70, kFfn), up(70, kFfn);
  one_->MatMul(slot.gate.weight, x.mat, gate.mat);
  one_->MatMul(slot.up.weight, x.mat, up.mat);
  one_->Activate({}, gate.mat, up.mat, gate.mat);
  one_->MatMul(slot.down.weight, gate.mat, alone.mat);
  EXPECT_EQ(alone.values, together.values);
}

TEST_P(ExpertFfnTest, CombinesInTheOrderOfTheEntries) {
  const OwnedMat x(5, 19, 9);
  OwnedMat y(3, 19, 10);
  const OwnedMat before = y;
  const ExpertSelection selection = {
      .offsets = {0, 2, 2, 5}, .experts = {4, 1, 0, 2, 3}, .weights = {0.5f, 0.25f, 1, 2, -3}};
  two_->CombineExperts(selection, x.mat, y.mat);
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 19; ++c) {
      double sum = before.mat.row(r)[c];
      for (int e = selection.offsets[r]; e < selection.offsets[r + 1]; ++e) {
        sum += double{selection.weights[e]} * x.mat.row(e)[c];
      }
      EXPECT_NEAR(y.mat.row(r)[c], sum, 1e-5);
    }
  }
  EXPECT_EQ(y.row(1), before.row(1));
}

HOSTLER_FOR_EVERY_ISA(ExpertFfnTest);

}  // namespace
}  // namespace hostler
