#include "server/plan/prediction.h"

#include <gtest/gtest.h>

#include <vector>

namespace hostler {
namespace {

// A machine of round numbers.
MachineProfile Machine() {
  MachineProfile machine;
  machine.threads = 2;
  machine.disk = {{1 << 20, 1, 1e9}};
  machine.memory_bytes_s = machine.memory_bytes_s_1 = 10e9;
  machine.kernels[DType::kQ8_0] =
      machine.kernels[DType::kF16] = {{1, 10e9}, {8, 40e9}, {512, 80e9}};
  return machine;
}

// 10 layers of 100 experts, 4 for a token; a megabyte and 10^6 MACs each.
ModelWork Work() {
  ModelWork work;
  work.dense_macs[DType::kQ8_0] = 60'000'000;
  work.expert_macs[DType::kQ8_0] = 1'000'000;
  work.dense_bytes = 60'000'000;
  work.slot_bytes = work.read_bytes = 1'000'000;
  work.layers = work.moe_layers = 10;
  work.experts = 100;
  work.topk = 4;
  work.step_rows = 512;
  return work;
}

TEST(PredictionTest, AddsUpWhatATokenTakes) {
  // 60 + 10 * 4 MACs at 10 GMAC/s; half of 40 MB from a disk of 1 GB/s.
  const StepPrediction step = PredictStep(Work(), Machine(), 1, 1, 0, {0.5, 4});
  EXPECT_DOUBLE_EQ(step.compute_s, 0.01);
  EXPECT_DOUBLE_EQ(step.memory_s, 0.01);
  EXPECT_DOUBLE_EQ(step.missed_bytes, 20e6);
  EXPECT_DOUBLE_EQ(step.disk_s, 0.02);
  EXPECT_DOUBLE_EQ(step.seconds, 0.02 + 0.4 * 0.01);
  EXPECT_EQ(step.limit(), "disk");
}

TEST(PredictionTest, NamesTheLimit) {
  MachineProfile machine = Machine();
  const HitRate all{1, 4};
  EXPECT_EQ(PredictStep(Work(), machine, 1, 1, 0, all).limit(), "memory");
  machine.memory_bytes_s = 100e9;
  EXPECT_EQ(PredictStep(Work(), machine, 1, 1, 0, all).limit(), "compute");
  EXPECT_EQ(PredictStep(Work(), machine, 1, 1, 0, {0.1, 4}).limit(), "disk");
}

// 100 GB/s of its own memory, 5 GB/s to it.
MachineProfile::GpuProfile RoundGpu() {
  MachineProfile::GpuProfile gpu;
  gpu.memory_bytes = 24'000'000'000;
  gpu.memory_bytes_s = 100e9;
  gpu.to_device_bytes_s = gpu.to_host_bytes_s = 5e9;
  gpu.kernels[DType::kQ8_0] = gpu.kernels[DType::kF16] = {{1, 100e9}, {512, 20e12}};
  return gpu;
}

TEST(PredictionTest, AGpuTakesTheLongestOfComputingAndItsLink) {
  const MachineProfile machine = OnGpu(Machine(), RoundGpu());
  // 100 MMACs at 100 GMAC/s; half of 40 MB over the link; the host has all of it.
  StepPrediction step = PredictStep(Work(), machine, 1, 1, 0, {0.5, 4, 1});
  EXPECT_DOUBLE_EQ(step.compute_s, 0.001);
  EXPECT_DOUBLE_EQ(step.memory_s, 0.001);
  EXPECT_DOUBLE_EQ(step.link_s, 20e6 / 5e9);
  EXPECT_DOUBLE_EQ(step.disk_s, 0);
  EXPECT_DOUBLE_EQ(step.seconds, 0.004) << "one hides behind the other";
  EXPECT_EQ(step.limit(), "link");
  // A quarter of what is missed is not there, and comes from a disk of 1 GB/s.
  step = PredictStep(Work(), machine, 1, 1, 0, {0.5, 4, 0.75});
  EXPECT_DOUBLE_EQ(step.disk_s, 0.005);
  EXPECT_DOUBLE_EQ(step.seconds, 0.005);
  EXPECT_EQ(step.limit(), "disk");
  step = PredictStep(Work(), machine, 1, 1, 0, {1, 4, 1});
  EXPECT_DOUBLE_EQ(step.seconds, 0.001);
  EXPECT_EQ(step.limit(), "memory");
}

TEST(PredictionTest, SharesAreThoseOfThePlan) {
  MemoryPlan plan;
  EXPECT_EQ(SharesOf(plan).computing, 1) << "a dense model misses nothing";
  plan.all_experts = 400;
  plan.experts = 100;
  plan.host_experts = 300;
  EXPECT_EQ(SharesOf(plan).computing, 0.25);
  EXPECT_EQ(SharesOf(plan).host, 0.75);
  EXPECT_EQ(UniformHitRate(Work(), 1, SharesOf(plan)).host_hits, 0.75);
}

TEST(PredictionTest, OperationsAndContextTakeTime) {
  MachineProfile machine = Machine();
  ModelWork work = Work();
  const double before = PredictStep(work, machine, 1, 1, 1000, {1, 4}).seconds;
  machine.operation_s = 1e-5;
  const double with_operations = PredictStep(work, machine, 1, 1, 1000, {1, 4}).seconds;
  EXPECT_GT(with_operations, before);
  work.kv_bytes = 100'000;
  EXPECT_NEAR(PredictStep(work, machine, 1, 1, 1000, {1, 4}).seconds - with_operations, 0.01, 1e-9);
  EXPECT_NEAR(PredictStep(work, machine, 2, 2, 1000, {1, 8}).memory_s -
                  PredictStep(work, machine, 2, 1, 1000, {1, 8}).memory_s,
              0.01, 1e-9);
}

TEST(PredictionTest, ClientsDecodeTogetherWhereThatPays) {
  const ModelWork work = Work();
  std::vector<HitRate> alike, unlike;
  for (int rows = 1; rows <= 8; ++rows) {
    alike.push_back({0.5, 4});                              // one set of experts serves all
    unlike.push_back({rows == 1 ? 0.9 : 0.1, 4.0 * rows});  // they push each other out
  }
  const DecodePrediction together = PredictClients(work, Machine(), 8, 0, alike);
  EXPECT_EQ(together.width, 8);
  EXPECT_GT(together.tokens_per_s, 4 * PredictClients(work, Machine(), 1, 0, alike).tokens_per_s);
  const DecodePrediction turns = PredictClients(work, Machine(), 8, 0, unlike);
  EXPECT_EQ(turns.width, 1);
  EXPECT_EQ(turns.clients, 8);
  // Also at numbers that are no power of two.
  EXPECT_EQ(PredictClients(work, Machine(), 7, 0, alike).width, 7);
  // Not more than there are rates for.
  alike.resize(5);
  EXPECT_EQ(PredictClients(work, Machine(), 8, 0, alike).width, 5);
}

TEST(PredictionTest, SequencesAreThoseThatKvHolds) {
  EngineOptions options;
  options.memory_bytes = uint64_t{256} << 20;
  options.kv_memory_bytes = uint64_t{8} << 20;
  options.max_sequences = 6;
  const auto planned = PlanModel(HOSTLER_SOURCE_DIR "/models/sample-moe", options);
  ASSERT_TRUE(planned.ok()) << planned.status();
  EXPECT_EQ(MostSequences(*planned, 1), 6);
  EXPECT_EQ(MostSequences(*planned, planned->memory.kv_blocks / 3 * KvLayout().block_tokens), 3);
  EXPECT_EQ(MostSequences(*planned, 1 << 24), 1);
}

TEST(PredictionTest, APromptReadsEachMissingExpertOnceAStep) {
  const ModelWork work = Work();
  const StepPrediction one = PredictPrompt(work, Machine(), 512, {0.25});
  EXPECT_NEAR(one.missed_bytes, 0.75 * 1000 * 1e6, 1e3);
  EXPECT_NEAR(PredictPrompt(work, Machine(), 1024, {0.25}).missed_bytes, 2 * one.missed_bytes, 1e3);
  EXPECT_EQ(PredictPrompt(work, Machine(), 512, {1}).missed_bytes, 0);
}

TEST(PredictionTest, UniformGatesHitWhatIsResident) {
  const HitRate one = UniformHitRate(Work(), 1, {0.3});
  EXPECT_DOUBLE_EQ(one.hits, 0.3);
  EXPECT_NEAR(one.experts_of_layer, 4, 1e-9);
  EXPECT_NEAR(UniformHitRate(Work(), 1000, {0.3}).experts_of_layer, 100, 1e-9);
}

TEST(PredictionTest, TypicalHitsRiseToAll) {
  double low = 0, high = 0;
  for (double share = 0; share <= 1; share += 0.01) {
    const HitRateRange range = TypicalHitRate(share);
    EXPECT_LE(range.low, range.high);
    EXPECT_GE(range.low, low);
    EXPECT_GE(range.high, high);
    EXPECT_GE(range.high, share);
    low = range.low;
    high = range.high;
  }
  EXPECT_DOUBLE_EQ(TypicalHitRate(1).low, 1);
}

// Two layers of eight; tokens take turns between two pairs of experts.
ExpertTrace TurnsTrace() {
  ExpertTrace trace;
  trace.header = {"turns", 2, 8, 2, false, {}, {}};
  for (int token = 0; token < 64; ++token) {
    for (int layer = 0; layer < 2; ++layer) {
      trace.lines.push_back({true, token, layer});
      for (const int expert : {0, 1}) trace.chosen.push_back(token % 2 * 2 + expert);
    }
  }
  return trace;
}

TEST(PredictionTest, ATraceTellsItsHits) {
  // First uses left out, 8 of the 16 experts are all there is.
  const HitRate rate = TraceHitRate(TurnsTrace(), 1, 0.5);
  EXPECT_DOUBLE_EQ(rate.hits, 1);
  EXPECT_DOUBLE_EQ(rate.experts_of_layer, 2);
  EXPECT_LT(TraceHitRate(TurnsTrace(), 1, 0.25).hits, 0.9);
  EXPECT_DOUBLE_EQ(TraceHitRate(TurnsTrace(), 2, 0.5).experts_of_layer, 2);
}

TEST(PredictionTest, AModelsHeadersTellItsWork) {
  EngineOptions options;
  options.memory_bytes = uint64_t{256} << 20;
  const auto planned = PlanModel(HOSTLER_SOURCE_DIR "/models/sample-moe", options);
  ASSERT_TRUE(planned.ok()) << planned.status();
  const ModelWork work = WorkOf(*planned);
  const ModelInfo& info = planned->sketch.info;
  EXPECT_EQ(work.experts, info.experts);
  EXPECT_EQ(work.read_bytes, info.expert_bytes);
  EXPECT_EQ(work.slot_bytes, info.expert_bytes);
  EXPECT_EQ(work.kv_bytes, info.KvBytesPerToken(2));
  uint64_t macs = 0;
  for (const auto& [type, of_type] : work.expert_macs) macs += of_type;
  EXPECT_EQ(macs * 2, info.expert_bytes);  // bf16
}

}  // namespace
}  // namespace hostler
