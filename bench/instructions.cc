// Runs each hot kernel once under callgrind, which dumps the instructions that it
// took under its name; bench/instructions.py reads them. One thread and small
// fixed shapes, so that the counts are the same on every run.

#include <valgrind/callgrind.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/quantize.h"
#include "engine/engine/sampler.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr DType kWeightTypes[] = {DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kMXFP4};

// What `run` takes once everything it needs has been set up and used before.
template <typename Run>
void Count(const std::string& name, const Run& run) {
  run();
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
  run();
  CALLGRIND_DUMP_STATS_AT(name.c_str());
  CALLGRIND_STOP_INSTRUMENTATION;
}

class Kernels {
 public:
  Kernels(Backend* backend, std::string isa) : backend_(*backend), isa_(std::move(isa)) {}

  void CountAll() {
    for (const DType type : kWeightTypes) {
      for (const int tokens : {1, 8, 64}) MatMul(type, tokens);
    }
    for (const DType type : {DType::kF32, DType::kF16}) {
      Attention(type, 1);
      Attention(type, 32);
    }
    RmsNorm();
    ExpertFfn();
  }

 private:
  std::string Name(const std::string& kernel, DType type) const {
    return fmt::format("{}/{}/{}", kernel, isa_, GetDTypeInfo(type).name);
  }

  std::unique_ptr<Buffer> Random(DType type, int64_t n) {
    std::mt19937 random(1);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = static_cast<float>(random()) * 0x1.0p-31f - 1.0f;
    std::unique_ptr<Buffer> buffer = *backend_.Allocate(RowBytes(type, n));
    ConvertRows(DType::kF32, type, reinterpret_cast<const std::byte*>(values.data()), n,
                buffer->data());
    return buffer;
  }
  static Mat AsMat(Buffer& buffer, int64_t rows, int64_t cols) {
    return {reinterpret_cast<float*>(buffer.data()), rows, cols};
  }

  void MatMul(DType type, int tokens) {
    constexpr int64_t kRows = 256, kCols = 512;
    const auto w = Random(type, kRows * kCols);
    const auto x = Random(DType::kF32, tokens * kCols);
    const auto y = Random(DType::kF32, tokens * kRows);
    Count(Name("MatMul", type) + fmt::format("/tokens:{}", tokens), [&] {
      backend_.MatMul({type, kRows, kCols, w->data()}, AsMat(*x, tokens, kCols),
                      AsMat(*y, tokens, kRows));
    });
  }

  void Attention(DType type, int rows) {
    constexpr int kContext = 256, kHeads = 8, kKvHeads = 2, kHeadDim = 64;
    const KvLayout layout = {
        .layers = 1, .kv_heads = kKvHeads, .k_dim = kHeadDim, .v_dim = kHeadDim, .dtype = type};
    const int count = kContext / layout.block_tokens;
    const auto memory = Random(type, int64_t{kContext} * kHeadDim * kKvHeads * 2);
    const auto q = Random(DType::kF32, int64_t{rows} * kHeads * kHeadDim);
    const auto out = Random(DType::kF32, int64_t{rows} * kHeads * kHeadDim);
    std::vector<int32_t> blocks;
    for (int i = 0; i < count; ++i) blocks.push_back(i);
    StepBatch batch;
    batch.tokens.assign(static_cast<size_t>(rows), 0);
    for (int i = 0; i < rows; ++i) batch.positions.push_back(kContext - rows + i);
    batch.sequences.push_back({.rows = rows,
                               .first_position = kContext - rows,
                               .prompt_tokens = kContext,
                               .blocks = blocks});
    Count(Name("Attention", type) + fmt::format("/rows:{}", rows), [&] {
      backend_.Attention({.heads = kHeads, .scale = 0.1f}, batch, 0,
                         AsMat(*q, rows, kHeads * kHeadDim), {layout, memory->data()},
                         AsMat(*out, rows, kHeads * kHeadDim));
    });
  }

  void RmsNorm() {
    constexpr int64_t kRows = 8, kCols = 2048;
    const auto x = Random(DType::kF32, kRows * kCols), out = Random(DType::kF32, kRows * kCols);
    const auto gain = Random(DType::kF32, kCols);
    Count(Name("RmsNorm", DType::kF32), [&] {
      backend_.RmsNorm(AsMat(*x, kRows, kCols), {DType::kF32, 1, kCols, gain->data()}, 1e-6f,
                       AsMat(*out, kRows, kCols));
    });
  }

  // 8 rows, two for each of four experts.
  void ExpertFfn() {
    constexpr int64_t kDim = 256, kFfn = 128, kRows = 8, kExperts = 4;
    const DType type = DType::kQ4_0;
    const ExpertLayout layout = ExpertLayout::Packed(kDim, kFfn, type, type, type);
    const auto slots = Random(type, kExperts * 3 * kDim * kFfn);
    const auto x = Random(DType::kF32, kRows * kDim), out = Random(DType::kF32, kRows * kDim);
    std::vector<int32_t> rows(kRows);
    for (int i = 0; i < kRows; ++i) rows[i] = i;
    std::vector<ExpertTask> tasks;
    for (int e = 0; e < kExperts; ++e) {
      const std::span<const int32_t> mine = std::span(rows).subspan(2 * e, 2);
      tasks.push_back({slots->data() + e * layout.bytes, mine, mine});
    }
    Count(Name("ExpertFfn", type), [&] {
      backend_.ExpertFfn(layout, tasks, AsMat(*x, kRows, kDim), AsMat(*out, kRows, kDim));
    });
  }

  Backend& backend_;
  const std::string isa_;
};

void CountSampler() {
  std::mt19937 random(1);
  std::vector<float> logits(32000);
  for (float& logit : logits) logit = static_cast<float>(random()) * 0x1.0p-28f;
  Sampler greedy({.temperature = 0}, 1, 0, {});
  Count("Sampler/greedy", [&] { greedy.Sample(logits, {}); });
  Sampler sampled({.temperature = 0.8, .top_k = 40, .top_p = 0.95}, 1, 0, {});
  Count("Sampler/top_k_top_p", [&] { sampled.Sample(logits, {}); });
}

int Main() {
  for (const char* isa : {"avx2", "portable"}) {
    const auto backend = NewCpuBackend(1, isa);
    if (backend.ok()) Kernels(backend->get(), isa).CountAll();
  }
  CountSampler();
  return 0;
}

}  // namespace
}  // namespace hostler

int main() { return hostler::Main(); }
