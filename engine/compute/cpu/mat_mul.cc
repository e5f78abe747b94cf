#include "engine/compute/cpu/mat_mul.h"

#include <algorithm>
#include <cstring>

#include "engine/compute/cpu/activation.h"

namespace hostler {
namespace {

constexpr int64_t kRowsMultiple = 16;  // a cache line of results
constexpr int64_t kMostChunkRows = 64;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Tokens a chunk takes: even shares in whole tiles.
int64_t ChunkTokens(int64_t tokens, int tile_tokens) {
  const int64_t most = kMaxTaskTokens / tile_tokens * tile_tokens;
  if (tokens <= most) return tokens;
  const int64_t parts = (tokens + most - 1) / most;
  return RoundUp((tokens + parts - 1) / parts, tile_tokens);
}

// Rows a chunk takes: several chunks a thread, so that none waits long.
int64_t ChunkRows(int64_t rows, int threads) {
  if (threads == 1) return kMostChunkRows;
  return std::clamp(RoundUp(rows / (4 * threads), kRowsMultiple), kRowsMultiple, kMostChunkRows);
}

MatMulTask RowsOf(const Weight& w, int64_t row, int64_t rows) {
  const size_t row_bytes = RowBytes(w.dtype, w.cols);
  return {.type = w.dtype,
          .w = w.data + static_cast<size_t>(row) * row_bytes,
          .row_bytes = row_bytes,
          .rows = rows,
          .cols = w.cols};
}

// Adds entries [first, first + n) of the f32 vector at `offset` in a slot, if any.
void AddSlotBias(const KernelTable& kernels, const std::byte* slot, size_t offset, int64_t first,
                 int64_t n, float* y) {
  if (offset == ExpertLayout::kNone) return;
  kernels.add(reinterpret_cast<const float*>(slot + offset) + first, n, y);
}

}  // namespace

void CpuMatMul(CpuContext& context, const Weight& w, int heads, Mat x, Mat y) {
  if (x.rows == 0 || w.rows == 0) return;
  const int64_t head_rows = w.rows / heads;
  const int64_t chunk_tokens = ChunkTokens(x.rows, context.kernels().tile_tokens);
  const int64_t chunk_rows = ChunkRows(head_rows, context.threads());
  const int64_t row_chunks = (head_rows + chunk_rows - 1) / chunk_rows;
  const int64_t token_chunks = (x.rows + chunk_tokens - 1) / chunk_tokens;
  context.ReserveScratch(kMatMulScratchFloats);
  const int64_t chunks = row_chunks * token_chunks * heads;
  context.For(chunks, w.rows * w.cols * x.rows, [&](int64_t chunk, int thread) {
    const int64_t head = chunk / (row_chunks * token_chunks);
    const int64_t head_row = chunk % row_chunks * chunk_rows;
    const int64_t row = head * head_rows + head_row;
    const int64_t token = chunk / row_chunks % token_chunks * chunk_tokens;
    MatMulTask task = RowsOf(w, row, std::min(chunk_rows, head_rows - head_row));
    task.tokens = std::min(chunk_tokens, x.rows - token);
    const float* inputs[kMaxTaskTokens];
    float* outputs[kMaxTaskTokens];
    for (int64_t t = 0; t < task.tokens; ++t) {
      inputs[t] = x.row(token + t) + head * w.cols;
      outputs[t] = y.row(token + t) + row;
    }
    task.x = inputs;
    task.y = outputs;
    task.scratch = context.scratch(thread);
    context.kernels().mat_mul(task);
  });
}

void CpuExpertFfn::Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                       Mat out) {
  int64_t entries = 0;
  for (const ExpertTask& task : tasks) entries += static_cast<int64_t>(task.in_rows.size());
  if (entries == 0) return;
  hidden_.Reserve(static_cast<size_t>(entries * layout.ffn));
  context_.ReserveScratch(kMatMulScratchFloats + kMaxTaskTokens * kMostChunkRows);
  const int64_t work = entries * layout.ffn * layout.dim;

  ScaleInputs(tasks, entries, x);
  int64_t chunks = Plan(tasks, layout.ffn);
  context_.For(chunks, 2 * work, [&](int64_t i, int thread) {
    GateUp(layout, chunks_[static_cast<size_t>(i)], x, context_.scratch(thread));
  });
  chunks = Plan(tasks, layout.dim);
  context_.For(chunks, work, [&](int64_t i, int thread) {
    Down(layout, chunks_[static_cast<size_t>(i)], out, context_.scratch(thread));
  });
}

int64_t CpuExpertFfn::Plan(std::span<const ExpertTask> tasks, int64_t rows) {
  chunks_.clear();
  int64_t hidden_row = 0;
  const int64_t chunk_rows = ChunkRows(rows, context_.threads());
  for (const ExpertTask& task : tasks) {
    const int64_t tokens = static_cast<int64_t>(task.in_rows.size());
    const int64_t step = ChunkTokens(tokens, context_.kernels().tile_tokens);
    for (int64_t token = 0; token < tokens; token += step) {
      for (int64_t row = 0; row < rows; row += chunk_rows) {
        chunks_.push_back({.task = &task,
                           .hidden_row = hidden_row + token,
                           .token = token,
                           .tokens = std::min(step, tokens - token),
                           .row = row,
                           .rows = std::min(chunk_rows, rows - row)});
      }
    }
    hidden_row += tokens;
  }
  return static_cast<int64_t>(chunks_.size());
}

void CpuExpertFfn::ScaleInputs(std::span<const ExpertTask> tasks, int64_t entries, Mat x) {
  int64_t scaled_row = 0;
  for (const ExpertTask& task : tasks) {
    if (!task.in_scales.empty()) {
      scaled_.Reserve(static_cast<size_t>(entries * x.cols));
      const int64_t rows = static_cast<int64_t>(task.in_rows.size());
      context_.For(rows, rows * x.cols, [&](int64_t i, int) {
        float* scaled = scaled_.data() + (scaled_row + i) * x.cols;
        std::memcpy(scaled, x.row(task.in_rows[static_cast<size_t>(i)]),
                    static_cast<size_t>(x.cols) * sizeof(float));
        context_.kernels().scale(task.in_scales[static_cast<size_t>(i)], x.cols, scaled);
      });
    }
    scaled_row += static_cast<int64_t>(task.in_rows.size());
  }
}

void CpuExpertFfn::GateUp(const ExpertLayout& layout, const Chunk& chunk, Mat x, float* scratch) {
  const float* inputs[kMaxTaskTokens];
  float* gates[kMaxTaskTokens];
  float* ups[kMaxTaskTokens];
  const bool scaled = !chunk.task->in_scales.empty();
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    inputs[t] = scaled ? scaled_.data() + (chunk.hidden_row + t) * x.cols
                       : x.row(chunk.task->in_rows[static_cast<size_t>(chunk.token + t)]);
    gates[t] = hidden_.data() + (chunk.hidden_row + t) * layout.ffn + chunk.row;
    ups[t] = scratch + t * kMostChunkRows;
  }
  MatMulTask gate = RowsOf(layout.gate(chunk.task->slot), chunk.row, chunk.rows);
  gate.x = inputs;
  gate.y = gates;
  gate.tokens = chunk.tokens;
  gate.scratch = scratch + kMaxTaskTokens * kMostChunkRows;
  context_.kernels().mat_mul(gate);

  MatMulTask up = RowsOf(layout.up(chunk.task->slot), chunk.row, chunk.rows);
  up.x = inputs;
  up.y = ups;
  up.tokens = chunk.tokens;
  up.scratch = gate.scratch;
  context_.kernels().mat_mul(up);
  const KernelTable& kernels = context_.kernels();
  const std::byte* slot = chunk.task->slot;
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    AddSlotBias(kernels, slot, layout.gate_bias, chunk.row, chunk.rows, gates[t]);
    AddSlotBias(kernels, slot, layout.up_bias, chunk.row, chunk.rows, ups[t]);
    CpuActivate(kernels, layout.activation, gates[t], ups[t], chunk.rows, gates[t]);
  }
}

void CpuExpertFfn::Down(const ExpertLayout& layout, const Chunk& chunk, Mat out, float* scratch) {
  const float* inputs[kMaxTaskTokens];
  float* outputs[kMaxTaskTokens];
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    inputs[t] = hidden_.data() + (chunk.hidden_row + t) * layout.ffn;
    outputs[t] = out.row(chunk.task->out_rows[static_cast<size_t>(chunk.token + t)]) + chunk.row;
  }
  MatMulTask down = RowsOf(layout.down(chunk.task->slot), chunk.row, chunk.rows);
  down.x = inputs;
  down.y = outputs;
  down.tokens = chunk.tokens;
  down.scratch = scratch;
  context_.kernels().mat_mul(down);
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    AddSlotBias(context_.kernels(), chunk.task->slot, layout.down_bias, chunk.row, chunk.rows,
                outputs[t]);
  }
}

}  // namespace hostler
