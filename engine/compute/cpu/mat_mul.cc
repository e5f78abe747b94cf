#include "engine/compute/cpu/mat_mul.h"

#include <algorithm>

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

}  // namespace

void CpuMatMul(CpuContext& context, const Weight& w, Mat x, Mat y) {
  if (x.rows == 0 || w.rows == 0) return;
  const int64_t chunk_tokens = ChunkTokens(x.rows, context.kernels().tile_tokens);
  const int64_t chunk_rows = ChunkRows(w.rows, context.threads());
  const int64_t row_chunks = (w.rows + chunk_rows - 1) / chunk_rows;
  const int64_t token_chunks = (x.rows + chunk_tokens - 1) / chunk_tokens;
  context.ReserveScratch(kMatMulScratchFloats);
  context.For(row_chunks * token_chunks, w.rows * w.cols * x.rows, [&](int64_t chunk, int thread) {
    const int64_t row = chunk % row_chunks * chunk_rows;
    const int64_t token = chunk / row_chunks * chunk_tokens;
    MatMulTask task = RowsOf(w, row, std::min(chunk_rows, w.rows - row));
    task.tokens = std::min(chunk_tokens, x.rows - token);
    const float* inputs[kMaxTaskTokens];
    float* outputs[kMaxTaskTokens];
    for (int64_t t = 0; t < task.tokens; ++t) {
      inputs[t] = x.row(token + t);
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

void CpuExpertFfn::GateUp(const ExpertLayout& layout, const Chunk& chunk, Mat x, float* scratch) {
  const float* inputs[kMaxTaskTokens];
  float* gates[kMaxTaskTokens];
  float* ups[kMaxTaskTokens];
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    inputs[t] = x.row(chunk.task->in_rows[static_cast<size_t>(chunk.token + t)]);
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
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    context_.kernels().silu_mul(gates[t], ups[t], chunk.rows, gates[t]);
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
}

}  // namespace hostler
