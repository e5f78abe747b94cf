#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "engine/compute/testing.h"

namespace hostler {
namespace {

using testing::OwnedMat;
using testing::OwnedWeight;

// Some experts in their slots, and a step's rows given to them unequally.
class ExpertFfnTest : public testing::EveryIsa {
 protected:
  static constexpr int64_t kDim = 96;
  static constexpr int64_t kFfn = 160;

  struct Types {
    DType gate, up, down;
  };

  struct Slot {
    Slot(Types types, uint32_t seed, bool biases = false)
        : gate(types.gate, kFfn, kDim, seed),
          up(types.up, kFfn, kDim, seed + 1),
          down(types.down, kDim, kFfn, seed + 2),
          gate_bias(DType::kF32, 1, kFfn, seed + 3),
          up_bias(DType::kF32, 1, kFfn, seed + 4),
          down_bias(DType::kF32, 1, kDim, seed + 5) {
      for (const OwnedWeight* w : {&gate, &up, &down, &gate_bias, &up_bias, &down_bias}) {
        if (w->weight.rows == 1 && !biases) continue;
        bytes.insert(bytes.end(), w->bytes.begin(), w->bytes.end());
      }
    }
    OwnedWeight gate, up, down, gate_bias, up_bias, down_bias;
    std::vector<std::byte> bytes;
  };

  static double Product(const ActivationSpec& spec, double gate, double up) {
    if (spec.kind == Activation::kSilu) return testing::Silu(gate) * up;
    if (spec.kind == Activation::kGeluTanh) {
      return 0.5 * gate *
             (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate))) * up;
    }
    gate = std::min(gate, double{spec.limit});
    up = std::clamp<double>(up, -spec.limit, spec.limit);
    return gate / (1 + std::exp(-1.702 * gate)) * (up + 1);
  }

  // Of inputs as the kernels take them.
  std::vector<double> Expected(const ExpertLayout& layout, const Slot& slot, const float* x,
                               double x_scale = 1) const {
    const bool biases = layout.gate_bias != ExpertLayout::kNone;
    const std::vector<float> gate_x = AsTaken(layout.gate_type, x, kDim);
    const std::vector<float> up_x = AsTaken(layout.up_type, x, kDim);
    std::vector<float> hidden(kFfn);
    std::vector<double> out(kDim);
    for (int64_t f = 0; f < kFfn; ++f) {
      double gate = biases ? slot.gate_bias.values[f] : 0;
      double up = biases ? slot.up_bias.values[f] : 0;
      for (int64_t d = 0; d < kDim; ++d) {
        gate += x_scale * gate_x[d] * slot.gate.values[f * kDim + d];
        up += x_scale * up_x[d] * slot.up.values[f * kDim + d];
      }
      hidden[f] = static_cast<float>(Product(layout.activation, gate, up));
    }
    hidden = AsTaken(layout.down_type, hidden.data(), kFfn);
    for (int64_t d = 0; d < kDim; ++d) {
      out[d] = biases ? slot.down_bias.values[d] : 0;
      for (int64_t f = 0; f < kFfn; ++f)
        out[d] += double{hidden[f]} * slot.down.values[d * kFfn + f];
    }
    return out;
  }

  // Where rounding makes another integer of a hidden value, the result is off by a step.
  double Near(DType down) const {
    if (testing::SplitsInputs(GetParam(), down)) return 4e-3;
    if (!UsesIntegers(down)) return 1e-3;
    return MostQuant(down) == 127 ? 0.6 : 3e-2;
  }
};

TEST_P(ExpertFfnTest, ComputesUnequalTasksTogether) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const Types types = {type, type, type};
    const Slot slots[] = {{types, 10}, {types, 20}, {types, 30}, {types, 40}};
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
            Expected(layout, slots[expert_of_task[i]], x.mat.row(tasks[i].in_rows[t]));
        for (int64_t d = 0; d < kDim; ++d) {
          ASSERT_NEAR(out.mat.row(tasks[i].out_rows[t])[d], expected[d], Near(type))
              << i << " " << t;
        }
      }
    }
  }
}

TEST_P(ExpertFfnTest, FollowsTheLayoutsTypesBiasesAndActivation) {
  const Types types[] = {{DType::kF32, DType::kF32, DType::kF32},
                         {DType::kQ8_0, DType::kF16, DType::kBF16},
                         {DType::kBF16, DType::kQ8_0, DType::kF32}};
  const ActivationSpec activations[] = {
      {Activation::kSilu}, {Activation::kGeluTanh}, {Activation::kSwigluOai, 2}};
  const OwnedMat x(70, kDim, 5);
  std::vector<int32_t> rows(70);
  std::iota(rows.begin(), rows.end(), 0);
  for (const Types& type : types) {
    for (const ActivationSpec& activation : activations) {
      for (bool biases : {false, true}) {
        const Slot slot(type, 10, biases);
        ExpertLayout layout =
            ExpertLayout::Packed(kDim, kFfn, type.gate, type.up, type.down, biases);
        layout.activation = activation;
        ASSERT_EQ(layout.bytes, slot.bytes.size());
        OwnedMat out(70, kDim);
        const ExpertTask task = {slot.bytes.data(), rows, rows};
        two_->ExpertFfn(layout, {&task, 1}, x.mat, out.mat);
        for (int r : {0, 1, 68, 69}) {
          const std::vector<double> expected = Expected(layout, slot, x.mat.row(r));
          for (int64_t d = 0; d < kDim; ++d) {
            ASSERT_NEAR(out.mat.row(r)[d], expected[d], Near(type.down))
                << "kind " << static_cast<int>(activation.kind) << (biases ? " with biases" : "");
          }
        }
      }
    }
  }
}

TEST_P(ExpertFfnTest, ATaskMayScaleItsInputs) {
  const Types types = {DType::kBF16, DType::kBF16, DType::kBF16};
  const Slot slots[] = {{types, 10}, {types, 20}, {types, 30}};
  const ExpertLayout layout = ExpertLayout::Packed(kDim, kFfn, types.gate, types.up, types.down);
  const OwnedMat x(6, kDim, 5);
  // The second task does not scale; rows are shared and out of order.
  const std::vector<int32_t> in_rows = {3, 0, 3, 1, 5, 3}, out_rows = {5, 4, 3, 2, 1, 0};
  const std::vector<float> scales = {0.5f, 2, 1, 1, -1, 0.25f};
  const std::span<const int32_t> in(in_rows), to(out_rows);
  const std::span<const float> by(scales);
  const std::vector<ExpertTask> tasks = {
      {slots[0].bytes.data(), in.first(2), to.first(2), by.first(2)},
      {slots[1].bytes.data(), in.subspan(2, 2), to.subspan(2, 2)},
      {slots[2].bytes.data(), in.last(2), to.last(2), by.last(2)}};
  OwnedMat out(6, kDim);
  two_->ExpertFfn(layout, tasks, x.mat, out.mat);
  for (int i = 0; i < 6; ++i) {
    const std::vector<double> expected =
        Expected(layout, slots[i / 2], x.mat.row(in_rows[i]), scales[i]);
    for (int64_t d = 0; d < kDim; ++d) {
      ASSERT_NEAR(out.mat.row(out_rows[i])[d], expected[d], 1e-3) << "entry " << i;
    }
  }
  for (size_t i = 0; i < 6; ++i) {
    const ExpertTask alone = {slots[i / 2].bytes.data(), in.subspan(i, 1), to.subspan(i, 1),
                              by.subspan(i, 1)};
    OwnedMat one(6, kDim);
    one_->ExpertFfn(layout, {&alone, 1}, x.mat, one.mat);
    EXPECT_EQ(one.row(out_rows[i]), out.row(out_rows[i])) << "entry " << i;
  }
}

TEST_P(ExpertFfnTest, ARowsResultDoesNotDependOnTheOthers) {
  const Slot slot({DType::kQ8_0, DType::kQ8_0, DType::kQ8_0}, 50);
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

TEST_P(ExpertFfnTest, RowsThatManyExpertsTakeGiveWhatTheyGiveAlone) {
  const Types types[] = {{DType::kQ4_0, DType::kQ4_0, DType::kQ8_0},
                         {DType::kQ8_0, DType::kMXFP4, DType::kQ4_0},
                         {DType::kF16, DType::kQ8_0, DType::kF16}};
  for (const Types& type : types) {
    const Slot slots[] = {{type, 10}, {type, 20}, {type, 30}};
    ExpertLayout layout = ExpertLayout::Packed(kDim, kFfn, type.gate, type.up, type.down);
    const OwnedMat x(40, kDim, 5);
    // All rows, every other one, one.
    std::vector<int32_t> in_rows;
    for (int32_t r = 0; r < 40; ++r) in_rows.push_back(r);
    for (int32_t r = 0; r < 40; r += 2) in_rows.push_back(r);
    for (int32_t r = 0; r < 40; r += 2) in_rows.push_back(r + 1);
    in_rows.push_back(7);
    std::vector<int32_t> out_rows(in_rows.size());
    std::iota(out_rows.begin(), out_rows.end(), 0);
    const std::span<const int32_t> in(in_rows), to(out_rows);
    const std::vector<ExpertTask> tasks = {
        {slots[0].bytes.data(), in.first(40), to.first(40)},
        {slots[1].bytes.data(), in.subspan(40, 20), to.subspan(40, 20)},
        {slots[2].bytes.data(), in.subspan(60, 20), to.subspan(60, 20)},
        {slots[1].bytes.data(), in.last(1), to.last(1)}};
    OwnedMat together(81, kDim), alone(81, kDim);
    two_->ExpertFfn(layout, tasks, x.mat, together.mat);
    for (const ExpertTask& task : tasks) {
      for (size_t i = 0; i < task.in_rows.size(); ++i) {
        const ExpertTask one = {task.slot, task.in_rows.subspan(i, 1), task.out_rows.subspan(i, 1)};
        one_->ExpertFfn(layout, {&one, 1}, x.mat, alone.mat);
      }
    }
    EXPECT_EQ(together.values, alone.values) << GetDTypeInfo(type.gate).name;
  }
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
