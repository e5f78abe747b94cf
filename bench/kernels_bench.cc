// Speed of the CPU backend's kernels. GFLOP/s counts a multiply-add as two; GB/s
// counts the bytes of weights or KV read once per call; %VNNI is the share of what
// vpdpbusd does at most on as many cores. One thread's rates are of CPU time.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "engine/compute/backend.h"
#include "engine/compute/interleave.h"
#include "engine/compute/quantize.h"
#include "engine/engine/sampler.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hostler {
namespace {

constexpr DType kTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,
                            DType::kQ8_0, DType::kQ4_0, DType::kMXFP4};

std::vector<float> RandomValues(int64_t n) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = uniform(random);
  return values;
}

// Values in the backend's memory, converted to a type.
std::unique_ptr<Buffer> RandomBuffer(Backend& backend, DType type, int64_t n) {
  const std::vector<float> values = RandomValues(n);
  std::unique_ptr<Buffer> buffer = *backend.Allocate(RowBytes(type, n));
  ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values.data()), n,
              buffer->data());
  return buffer;
}

// A matrix as the backend wants it.
std::unique_ptr<Buffer> RandomMatrix(Backend& backend, DType type, int64_t rows, int64_t cols) {
  std::unique_ptr<Buffer> stored = RandomBuffer(backend, type, rows * cols);
  if (!backend.Interleaves(type)) return stored;
  std::unique_ptr<Buffer> interleaved = *backend.Allocate(stored->bytes());
  InterleaveRows(type, rows, cols, stored->data(), interleaved->data());
  return interleaved;
}

Mat AsMat(Buffer& buffer, int64_t rows, int64_t cols) {
  return {reinterpret_cast<float*>(buffer.data()), rows, cols};
}

void Report(benchmark::State& state, double flops, double bytes) {
  using benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
}

#if defined(__x86_64__)
// What one core can do at most: independent chains of multiply-adds in registers.
__attribute__((target("avx512f"))) void Avx512FmaPeak(benchmark::State& state) {
  if (!__builtin_cpu_supports("avx512f")) return state.SkipWithError("no AVX-512");
  constexpr int kChains = 16;
  constexpr int kRepeats = 1000;
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_set1_ps(1);
  const __m512 factor = _mm512_set1_ps(0.999f);
  for (auto _ : state) {
    for (int i = 0; i < kRepeats; ++i) {
#pragma GCC unroll 16
      for (int c = 0; c < kChains; ++c) sums[c] = _mm512_fmadd_ps(sums[c], factor, factor);
    }
    benchmark::DoNotOptimize(sums);
  }
  Report(state, 2.0 * 16 * kChains * kRepeats, 0);
}
BENCHMARK(Avx512FmaPeak);

// Multiply-adds of bytes into 32 bits; a GFLOP is two of these as well.
constexpr double kVnniFlops = 2.0 * 64 * 16 * 1000;
__attribute__((target("avx512f,avx512vnni"))) void VnniLoop() {
  constexpr int kChains = 16;
  __m512i sums[kChains];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  const __m512i factor = _mm512_set1_epi8(3);
  for (int i = 0; i < 1000; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_dpbusd_epi32(sums[c], factor, factor);
  }
  benchmark::DoNotOptimize(sums);
}

void VnniPeak(benchmark::State& state) {
  if (!__builtin_cpu_supports("avx512vnni")) return state.SkipWithError("no AVX-512 VNNI");
  for (auto _ : state) VnniLoop();
  Report(state, kVnniFlops, 0);
}
BENCHMARK(VnniPeak);

// What VnniLoop reaches undisturbed, per second; 0 on a CPU without it.
double VnniFlopsPerSecond() {
  static const double peak = [] {
    if (!__builtin_cpu_supports("avx512vnni")) return 0.0;
    double best = 0;
    for (int i = 0; i < 200; ++i) {
      const auto start = std::chrono::steady_clock::now();
      for (int j = 0; j < 20; ++j) VnniLoop();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      best = std::max(best, 20 * kVnniFlops / took.count());
    }
    return best;
  }();
  return peak;
}

__attribute__((target("avx2,fma"))) void Avx2FmaPeak(benchmark::State& state) {
  if (!__builtin_cpu_supports("fma")) return state.SkipWithError("no FMA");
  constexpr int kChains = 12;
  constexpr int kRepeats = 1000;
  __m256 sums[kChains];
  for (__m256& sum : sums) sum = _mm256_set1_ps(1);
  const __m256 factor = _mm256_set1_ps(0.999f);
  for (auto _ : state) {
    for (int i = 0; i < kRepeats; ++i) {
#pragma GCC unroll 12
      for (int c = 0; c < kChains; ++c) sums[c] = _mm256_fmadd_ps(sums[c], factor, factor);
    }
    benchmark::DoNotOptimize(sums);
  }
  Report(state, 2.0 * 8 * kChains * kRepeats, 0);
}
BENCHMARK(Avx2FmaPeak);
#else
double VnniFlopsPerSecond() { return 0; }
#endif

void ReportShare(benchmark::State& state, double flops, int threads) {
  if (VnniFlopsPerSecond() == 0) return;
  state.counters["%VNNI"] = benchmark::Counter(100 * flops / (VnniFlopsPerSecond() * threads),
                                               benchmark::Counter::kIsIterationInvariantRate);
}

// Enough matrices in turn that one token's weights come from memory, as they do
// when a model decodes.
void MatMul(benchmark::State& state, std::string isa, DType type, int threads) {
  constexpr int64_t kDim = 2048;
  const int64_t tokens = state.range(0);
  const int64_t matrices = tokens <= 16 ? 32 : 1;
  auto created = NewCpuBackend(threads, isa);
  if (!created.ok()) return state.SkipWithError("not on this CPU");
  Backend& backend = **created;
  const size_t bytes = RowBytes(type, kDim * kDim);
  const auto one = RandomMatrix(backend, type, kDim, kDim);
  const auto w = *backend.Allocate(bytes * matrices);
  for (int64_t i = 0; i < matrices; ++i) {
    std::copy_n(one->data(), bytes, w->data() + static_cast<size_t>(i) * bytes);
  }
  const auto x = RandomBuffer(backend, DType::kF32, tokens * kDim);
  const auto y = RandomBuffer(backend, DType::kF32, tokens * kDim);
  int64_t next = 0;
  for (auto _ : state) {
    const std::byte* data = w->data() + static_cast<size_t>(next) * bytes;
    backend.MatMul({type, kDim, kDim, data, backend.Interleaves(type)}, AsMat(*x, tokens, kDim),
                   AsMat(*y, tokens, kDim));
    next = (next + 1) % matrices;
  }
  Report(state, 2.0 * tokens * kDim * kDim, static_cast<double>(bytes));
  ReportShare(state, 2.0 * tokens * kDim * kDim, threads);
}

// The last `rows` tokens of a context. Without grouping 16 heads have keys and values
// of their own; with it eight of 32 share them.
void Attention(benchmark::State& state, std::string isa, DType type, int threads) {
  const int rows = static_cast<int>(state.range(0));
  const int context = static_cast<int>(state.range(1));
  const int group = static_cast<int>(state.range(2));
  const int heads = group > 1 ? 32 : 16, kv_heads = heads / group;
  constexpr int kHeadDim = 128, kBlockTokens = 16;
  auto created = NewCpuBackend(threads, isa);
  if (!created.ok()) return state.SkipWithError("not on this CPU");
  Backend& backend = **created;
  const KvLayout layout = {.layers = 1,
                           .kv_heads = kv_heads,
                           .k_dim = kHeadDim,
                           .v_dim = kHeadDim,
                           .block_tokens = kBlockTokens,
                           .dtype = type};
  const int count = context / kBlockTokens;
  const auto memory =
      RandomBuffer(backend, type, int64_t{count} * kBlockTokens * kHeadDim * kv_heads * 2);
  const auto q = RandomBuffer(backend, DType::kF32, int64_t{rows} * heads * kHeadDim);
  const auto out = RandomBuffer(backend, DType::kF32, int64_t{rows} * heads * kHeadDim);
  std::vector<int32_t> blocks;
  for (int i = 0; i < count; ++i) blocks.push_back(i);
  StepBatch batch;
  batch.tokens.assign(static_cast<size_t>(rows), 0);
  for (int i = 0; i < rows; ++i) batch.positions.push_back(context - rows + i);
  batch.sequences.push_back(
      {.rows = rows, .first_position = context - rows, .prompt_tokens = context, .blocks = blocks});
  for (auto _ : state) {
    backend.Attention({.heads = heads, .scale = 0.1f}, batch, 0, AsMat(*q, rows, heads * kHeadDim),
                      {layout, memory->data()}, AsMat(*out, rows, heads * kHeadDim));
  }
  const double seen = rows * (context - rows / 2.0);
  Report(state, 4.0 * seen * heads * kHeadDim, static_cast<double>(layout.block_bytes()) * count);
}

// 32 heads of 128, as often as a model of 16 layers turns them in a step.
void Rope(benchmark::State& state) {
  constexpr int kHeads = 32, kHeadDim = 128, kLayers = 16;
  const int rows = static_cast<int>(state.range(0));
  const auto backend = *NewCpuBackend(1);
  const auto x = RandomBuffer(*backend, DType::kF32, int64_t{rows} * kHeads * kHeadDim);
  RopeSpec rope;
  for (int i = 0; i < kHeadDim / 2; ++i) {
    rope.inv_freq.push_back(std::pow(1e6f, -2.0f * i / kHeadDim));
  }
  StepBatch batch;
  batch.tokens.assign(static_cast<size_t>(rows), 0);
  batch.positions.assign(static_cast<size_t>(rows), 0);
  int position = 0;
  for (auto _ : state) {
    for (int32_t& row : batch.positions) row = position++;
    for (int layer = 0; layer < kLayers; ++layer) {
      backend->Rope(rope, batch, kHeadDim, AsMat(*x, rows, kHeads * kHeadDim));
    }
  }
  Report(state, 6.0 * rows * kHeads * kHeadDim / 2 * kLayers, 0);
}
BENCHMARK(Rope)->ArgName("rows")->Arg(1)->Arg(512);

void RmsNorm(benchmark::State& state) {
  constexpr int64_t kDim = 2048;
  const int64_t rows = state.range(0);
  const auto backend = *NewCpuBackend(1);
  const auto x = RandomBuffer(*backend, DType::kF32, rows * kDim);
  const auto gain = RandomBuffer(*backend, DType::kF32, kDim);
  const auto out = RandomBuffer(*backend, DType::kF32, rows * kDim);
  for (auto _ : state) {
    backend->RmsNorm(AsMat(*x, rows, kDim), {DType::kF32, 1, kDim, gain->data()}, 1e-6f,
                     AsMat(*out, rows, kDim));
  }
  Report(state, 4.0 * rows * kDim, 8.0 * rows * kDim);
}
BENCHMARK(RmsNorm)->ArgName("rows")->Arg(1)->Arg(512);

// One draw from a large vocabulary, whose logits are spread like a model's.
void Sample(benchmark::State& state, SamplingRule rule) {
  constexpr int kVocab = 151936;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits(kVocab);
  for (float& logit : logits) logit = normal(random);
  for (int i = 0; i < 20; ++i) logits[random() % kVocab] = 12.0f + i % 7;
  Sampler sampler(rule, 1, 0, {});
  for (auto _ : state) benchmark::DoNotOptimize(sampler.Sample(logits, {}));
}

// A layer of 64 experts of 2048 x 768, 8 of them for each token.
void ExpertFfn(benchmark::State& state, std::string isa, DType type) {
  constexpr int kExperts = 64, kTopK = 8;
  constexpr int64_t kDim = 2048, kFfn = 768;
  const int tokens = static_cast<int>(state.range(0));
  auto created = NewCpuBackend(2, isa);
  if (!created.ok()) return state.SkipWithError("not on this CPU");
  Backend& backend = **created;
  ExpertLayout layout = ExpertLayout::Packed(kDim, kFfn, type, type, type);
  layout.interleaved = backend.Interleaves(type);
  // What is right for gate and up serves for down.
  const auto one = RandomMatrix(backend, type, 3 * kFfn, kDim);
  const auto slots = *backend.Allocate(layout.bytes * kExperts);
  for (int e = 0; e < kExperts; ++e) {
    std::copy_n(one->data(), layout.bytes, slots->data() + e * layout.bytes);
  }
  const auto x = RandomBuffer(backend, DType::kF32, tokens * kDim);
  const auto out = RandomBuffer(backend, DType::kF32, int64_t{tokens} * kTopK * kDim);
  std::vector<std::vector<int32_t>> in_rows(kExperts), out_rows(kExperts);
  for (int i = 0; i < tokens * kTopK; ++i) {
    in_rows[i % kExperts].push_back(i / kTopK);
    out_rows[i % kExperts].push_back(i);
  }
  std::vector<ExpertTask> tasks;
  for (int e = 0; e < kExperts; ++e) {
    if (in_rows[e].empty()) continue;
    tasks.push_back({slots->data() + e * layout.bytes, in_rows[e], out_rows[e]});
  }
  for (auto _ : state) {
    backend.ExpertFfn(layout, tasks, AsMat(*x, tokens, kDim),
                      AsMat(*out, int64_t{tokens} * kTopK, kDim));
  }
  ReportShare(state, 6.0 * tokens * kTopK * kDim * kFfn, 2);
  Report(state, 6.0 * tokens * kTopK * kDim * kFfn,
         static_cast<double>(layout.bytes) * tasks.size());
}

void RegisterAll() {
  for (const char* isa : {"amx", "avx512vnni", "avx512", "avx2", "portable"}) {
    for (DType type : kTypes) {
      const std::string suffix =
          std::string("/") + isa + "/" + std::string(GetDTypeInfo(type).name);
      for (int threads : {1, 2}) {
        auto* mat_mul = benchmark::RegisterBenchmark(
                            ("MatMul" + suffix + "/threads:" + std::to_string(threads)).c_str(),
                            [=](benchmark::State& state) { MatMul(state, isa, type, threads); })
                            ->ArgName("tokens")
                            ->Arg(1)
                            ->Arg(2)
                            ->Arg(4)
                            ->Arg(8)
                            ->Arg(16)
                            ->Arg(64)
                            ->Arg(512);
        if (threads > 1) mat_mul->UseRealTime();
      }
      benchmark::RegisterBenchmark(("ExpertFfn" + suffix).c_str(),
                                   [=](benchmark::State& state) { ExpertFfn(state, isa, type); })
          ->ArgName("tokens")
          ->Arg(1)
          ->Arg(8)
          ->Arg(16)
          ->Arg(512)
          ->UseRealTime();
      if (GetDTypeInfo(type).block_elements > 1 && type != DType::kQ8_0) continue;
      for (int threads : {1, 2}) {
        auto* attention =
            benchmark::RegisterBenchmark(
                ("Attention" + suffix + "/threads:" + std::to_string(threads)).c_str(),
                [=](benchmark::State& state) { Attention(state, isa, type, threads); })
                ->ArgNames({"rows", "context", "group"})
                ->ArgsProduct({{1, 256}, {512, 4096, 16384}, {1, 8}});
        if (threads > 1) attention->UseRealTime();
      }
    }
  }
  const std::pair<const char*, SamplingRule> rules[] = {
      {"greedy", {.temperature = 0}},
      {"temperature", {.temperature = 0.8}},
      {"top_k", {.temperature = 0.8, .top_k = 40}},
      {"top_p", {.temperature = 0.8, .top_p = 0.95}},
      {"penalty", {.temperature = 0, .repetition_penalty = 1.1}},
  };
  for (const auto& [name, rule] : rules) {
    benchmark::RegisterBenchmark((std::string("Sample/") + name).c_str(),
                                 [rule = rule](benchmark::State& state) { Sample(state, rule); });
  }
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) {
  hostler::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
