#include "engine/compute/cpu/mat_mul.h"

#include <algorithm>
#include <cstring>

#include "engine/compute/cpu/activation.h"

namespace hostler {
namespace {

constexpr int64_t kRowsMultiple = 16;  // a cache line of results
constexpr int64_t kMostChunkRows = 64;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The most tokens in a chunk whose products are of integers.
constexpr int64_t kMaxIntegerTokens = 128;
constexpr int64_t kMaxChunkTokens = std::max<int64_t>(kMaxTaskTokens, kMaxIntegerTokens);

// Tokens a chunk takes: even shares of at most `most`, in whole tiles.
int64_t ChunkTokens(int64_t tokens, int64_t tile_tokens, int64_t most) {
  most = most / tile_tokens * tile_tokens;
  if (tokens <= most) return tokens;
  const int64_t parts = (tokens + most - 1) / most;
  return RoundUp((tokens + parts - 1) / parts, tile_tokens);
}

// Rows a chunk takes: several chunks a thread, so that none waits long.
int64_t ChunkRows(int64_t rows, int threads) {
  if (threads == 1) return kMostChunkRows;
  return std::clamp(RoundUp(rows / (4 * threads), kRowsMultiple), kRowsMultiple, kMostChunkRows);
}

bool UsesIntegers(const KernelTable& kernels, DType type) {
  return kernels.integers != nullptr && kernels.integers->has(type);
}

// How `tokens` inputs of `cols` values are converted to integers: each by itself,
// or in tiles.
struct IntegerInputs {
  IntegerInputs(const IntegerKernels& integers, int64_t token_count, int64_t columns)
      : kernels(integers),
        tokens(token_count),
        cols(columns),
        tiles(tokens >= integers.tile_from),
        unit_tokens(tiles ? kInputTile : 1),
        unit_bytes(tiles ? static_cast<size_t>(cols / kInputBlock) * sizeof(InputTileBlock)
                         : static_cast<size_t>(InputGroups(cols)) * sizeof(InputGroup)) {}

  int64_t units() const { return (tokens + unit_tokens - 1) / unit_tokens; }
  // Where a token's unit begins.
  size_t offset(int64_t token) const {
    return static_cast<size_t>(token / unit_tokens) * unit_bytes;
  }
  size_t bytes() const { return static_cast<size_t>(units()) * unit_bytes; }
  int64_t tokens_of(int64_t unit) const {
    return std::min(unit_tokens, tokens - unit * unit_tokens);
  }
  // Converts a unit of n tokens.
  void Convert(const float* const* x, int64_t n, std::byte* out) const {
    if (tiles) {
      kernels.to_tile(x, static_cast<int>(n), cols, reinterpret_cast<InputTileBlock*>(out));
    } else {
      kernels.to_groups(x[0], cols, reinterpret_cast<InputGroup*>(out));
    }
  }

  const IntegerKernels& kernels;
  int64_t tokens, cols;
  bool tiles;
  int64_t unit_tokens;
  size_t unit_bytes;
};

// A chunk's inputs: as they are and, for types that use integers, converted, of
// an operation or expert with `all_tokens` of them.
struct ChunkInputs {
  const float* rows[kMaxChunkTokens];
  const std::byte* converted = nullptr;
  int64_t tokens = 0;
  int64_t all_tokens = 0;
};

// Floats of scratch that products of w take.
size_t ScratchFloats(const KernelTable& kernels, DType type, int64_t cols) {
  return UsesIntegers(kernels, type) ? IntegerScratchBytes(cols) / sizeof(float)
                                     : kMatMulScratchFloats;
}

// y[t][i] = x[t] · row `row` + i of w, for i < rows.
void MultiplyRows(const KernelTable& kernels, const Weight& w, int64_t row, int64_t rows,
                  const ChunkInputs& x, float* const* y, float* scratch) {
  const size_t row_bytes = RowBytes(w.dtype, w.cols);
  const std::byte* data = w.data + static_cast<size_t>(row) * row_bytes;
  if (!UsesIntegers(kernels, w.dtype)) {
    return kernels.mat_mul({.type = w.dtype,
                            .w = data,
                            .row_bytes = row_bytes,
                            .rows = rows,
                            .cols = w.cols,
                            .x = x.rows,
                            .y = y,
                            .tokens = x.tokens,
                            .scratch = scratch});
  }
  const IntegerTask task = {.type = w.dtype,
                            .w = data,
                            .row_bytes = row_bytes,
                            .rows = rows,
                            .cols = w.cols,
                            .x = x.converted,
                            .y = y,
                            .tokens = x.tokens,
                            .scratch = reinterpret_cast<std::byte*>(scratch)};
  if (x.all_tokens >= kernels.integers->tile_from) {
    kernels.integers->multiply_tiles(task);
  } else {
    kernels.integers->multiply(task);
  }
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
  const KernelTable& kernels = context.kernels();
  const bool integers = UsesIntegers(kernels, w.dtype);
  size_t head_bytes = 0, unit_bytes = 0;
  int64_t unit_tokens = 1;
  std::byte* converted = nullptr;
  if (integers) {
    const IntegerInputs inputs(*kernels.integers, x.rows, w.cols);
    converted = context.ReserveInputs(static_cast<size_t>(heads) * inputs.bytes());
    context.For(heads * inputs.units(), x.rows * x.cols, [&](int64_t i, int) {
      const int64_t head = i / inputs.units(), unit = i % inputs.units();
      const float* rows[kInputTile];
      for (int64_t t = 0; t < inputs.tokens_of(unit); ++t) {
        rows[t] = x.row(unit * inputs.unit_tokens + t) + head * w.cols;
      }
      inputs.Convert(rows, inputs.tokens_of(unit),
                     converted + static_cast<size_t>(i) * inputs.unit_bytes);
    });
    head_bytes = inputs.bytes();
    unit_bytes = inputs.unit_bytes;
    unit_tokens = inputs.unit_tokens;
  }
  const int64_t head_rows = w.rows / heads;
  const int64_t chunk_tokens = integers ? ChunkTokens(x.rows, kInputTile, kMaxIntegerTokens)
                                        : ChunkTokens(x.rows, kernels.tile_tokens, kMaxTaskTokens);
  const int64_t chunk_rows = ChunkRows(head_rows, context.threads());
  const int64_t row_chunks = (head_rows + chunk_rows - 1) / chunk_rows;
  const int64_t token_chunks = (x.rows + chunk_tokens - 1) / chunk_tokens;
  context.ReserveScratch(ScratchFloats(kernels, w.dtype, w.cols));
  const int64_t chunks = row_chunks * token_chunks * heads;
  context.For(chunks, w.rows * w.cols * x.rows, [&](int64_t chunk, int thread) {
    const int64_t head = chunk / (row_chunks * token_chunks);
    const int64_t head_row = chunk % row_chunks * chunk_rows;
    const int64_t row = head * head_rows + head_row;
    const int64_t token = chunk / row_chunks % token_chunks * chunk_tokens;
    ChunkInputs inputs;
    inputs.tokens = std::min(chunk_tokens, x.rows - token);
    inputs.all_tokens = x.rows;
    inputs.converted = converted + static_cast<size_t>(head) * head_bytes +
                       static_cast<size_t>(token / unit_tokens) * unit_bytes;
    float* outputs[kMaxChunkTokens];
    for (int64_t t = 0; t < inputs.tokens; ++t) {
      inputs.rows[t] = x.row(token + t) + head * w.cols;
      outputs[t] = y.row(token + t) + row;
    }
    MultiplyRows(kernels, w, row, std::min(chunk_rows, head_rows - head_row), inputs, outputs,
                 context.scratch(thread));
  });
}

void CpuExpertFfn::Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x,
                       Mat out) {
  int64_t entries = 0;
  for (const ExpertTask& task : tasks) entries += static_cast<int64_t>(task.in_rows.size());
  if (entries == 0) return;
  const KernelTable& kernels = context_.kernels();
  hidden_.Reserve(static_cast<size_t>(entries * layout.ffn));
  size_t scratch = ScratchFloats(kernels, layout.down_type, layout.ffn);
  for (DType type : {layout.gate_type, layout.up_type}) {
    scratch = std::max(scratch, ScratchFloats(kernels, type, layout.dim));
  }
  context_.ReserveScratch(kMaxChunkTokens * kMostChunkRows + scratch);
  const int64_t work = entries * layout.ffn * layout.dim;

  ScaleInputs(tasks, entries, x);
  int64_t chunks = Plan(layout, tasks, layout.ffn, layout.dim);
  if (UsesIntegers(kernels, layout.gate_type) || UsesIntegers(kernels, layout.up_type)) {
    ConvertInputs(tasks, layout.dim, [&](const ExpertTask& task, int64_t entry, int64_t token) {
      return InputOf(task, entry, token, x);
    });
  }
  context_.For(chunks, 2 * work, [&](int64_t i, int thread) {
    GateUp(layout, chunks_[static_cast<size_t>(i)], x, context_.scratch(thread));
  });
  chunks = Plan(layout, tasks, layout.dim, layout.ffn);
  if (UsesIntegers(kernels, layout.down_type)) {
    ConvertInputs(tasks, layout.ffn, [&](const ExpertTask&, int64_t entry, int64_t) {
      return hidden_.data() + entry * layout.ffn;
    });
  }
  context_.For(chunks, work, [&](int64_t i, int thread) {
    Down(layout, chunks_[static_cast<size_t>(i)], out, context_.scratch(thread));
  });
}

size_t CpuExpertFfn::ScratchBytes(const ExpertLayout& layout, int64_t entries,
                                  int64_t experts) const {
  const KernelTable& kernels = context_.kernels();
  const size_t hidden = sizeof(float) * static_cast<size_t>(entries * layout.ffn);
  if (!UsesIntegers(kernels, layout.gate_type) && !UsesIntegers(kernels, layout.up_type) &&
      !UsesIntegers(kernels, layout.down_type)) {
    return hidden;
  }
  // Few tokens of an expert are converted each by itself, more in tiles, of which
  // the last need not be full.
  const int64_t cols = std::max(layout.dim, layout.ffn);
  const IntegerInputs single(*kernels.integers, 1, cols);
  const IntegerInputs tile(*kernels.integers, std::max(kInputTile, kernels.integers->tile_from),
                           cols);
  const size_t tiles = static_cast<size_t>(entries / kInputTile + std::min(entries, experts));
  return hidden +
         std::max(static_cast<size_t>(entries) * single.unit_bytes, tiles * tile.unit_bytes);
}

int64_t CpuExpertFfn::Plan(const ExpertLayout& layout, std::span<const ExpertTask> tasks,
                           int64_t rows, int64_t cols) {
  chunks_.clear();
  const KernelTable& kernels = context_.kernels();
  int integer_types = 0;
  for (DType type : {layout.gate_type, layout.up_type, layout.down_type}) {
    integer_types += UsesIntegers(kernels, type) ? 1 : 0;
  }
  const int64_t tile_tokens = integer_types > 0 ? kInputTile : kernels.tile_tokens;
  const int64_t most_tokens = integer_types == 3 ? kMaxIntegerTokens : kMaxTaskTokens;
  int64_t entry = 0;
  size_t bytes = 0;
  const int64_t chunk_rows = ChunkRows(rows, context_.threads());
  for (const ExpertTask& task : tasks) {
    const int64_t tokens = static_cast<int64_t>(task.in_rows.size());
    const int64_t step = ChunkTokens(tokens, tile_tokens, most_tokens);
    for (int64_t token = 0; token < tokens; token += step) {
      size_t inputs = bytes;
      if (integer_types > 0) inputs += IntegerInputs(*kernels.integers, tokens, cols).offset(token);
      for (int64_t row = 0; row < rows; row += chunk_rows) {
        chunks_.push_back({.task = &task,
                           .entry = entry + token,
                           .token = token,
                           .tokens = std::min(step, tokens - token),
                           .inputs = inputs,
                           .row = row,
                           .rows = std::min(chunk_rows, rows - row)});
      }
    }
    if (integer_types > 0) bytes += IntegerInputs(*kernels.integers, tokens, cols).bytes();
    entry += tokens;
  }
  return static_cast<int64_t>(chunks_.size());
}

template <typename Source>
void CpuExpertFfn::ConvertInputs(std::span<const ExpertTask> tasks, int64_t cols, Source source) {
  const IntegerKernels& integers = *context_.kernels().integers;
  conversions_.clear();
  int64_t entry = 0;
  size_t bytes = 0;
  for (const ExpertTask& task : tasks) {
    const int64_t tokens = static_cast<int64_t>(task.in_rows.size());
    const IntegerInputs inputs(integers, tokens, cols);
    for (int64_t unit = 0; unit < inputs.units(); ++unit) {
      const int64_t token = unit * inputs.unit_tokens;
      conversions_.push_back({.task = &task,
                              .entry = entry + token,
                              .token = token,
                              .tokens = inputs.tokens_of(unit),
                              .inputs = bytes + inputs.offset(token),
                              .row = 0,
                              .rows = 0});
    }
    bytes += inputs.bytes();
    entry += tokens;
  }
  std::byte* converted = context_.ReserveInputs(bytes);
  context_.For(static_cast<int64_t>(conversions_.size()), entry * cols, [&](int64_t i, int) {
    const Chunk& unit = conversions_[static_cast<size_t>(i)];
    const float* rows[kInputTile];
    for (int64_t t = 0; t < unit.tokens; ++t) {
      rows[t] = source(*unit.task, unit.entry + t, unit.token + t);
    }
    IntegerInputs(integers, static_cast<int64_t>(unit.task->in_rows.size()), cols)
        .Convert(rows, unit.tokens, converted + unit.inputs);
  });
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

const float* CpuExpertFfn::InputOf(const ExpertTask& task, int64_t entry, int64_t token,
                                   Mat x) const {
  return task.in_scales.empty() ? x.row(task.in_rows[static_cast<size_t>(token)])
                                : scaled_.data() + entry * x.cols;
}

void CpuExpertFfn::GateUp(const ExpertLayout& layout, const Chunk& chunk, Mat x, float* scratch) {
  ChunkInputs inputs;
  inputs.tokens = chunk.tokens;
  inputs.all_tokens = static_cast<int64_t>(chunk.task->in_rows.size());
  inputs.converted = context_.inputs() + chunk.inputs;
  float* gates[kMaxChunkTokens];
  float* ups[kMaxChunkTokens];
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    inputs.rows[t] = InputOf(*chunk.task, chunk.entry + t, chunk.token + t, x);
    gates[t] = hidden_.data() + (chunk.entry + t) * layout.ffn + chunk.row;
    ups[t] = scratch + t * kMostChunkRows;
  }
  const KernelTable& kernels = context_.kernels();
  const std::byte* slot = chunk.task->slot;
  float* product_scratch = scratch + kMaxChunkTokens * kMostChunkRows;
  MultiplyRows(kernels, layout.gate(slot), chunk.row, chunk.rows, inputs, gates, product_scratch);
  MultiplyRows(kernels, layout.up(slot), chunk.row, chunk.rows, inputs, ups, product_scratch);
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    AddSlotBias(kernels, slot, layout.gate_bias, chunk.row, chunk.rows, gates[t]);
    AddSlotBias(kernels, slot, layout.up_bias, chunk.row, chunk.rows, ups[t]);
    CpuActivate(kernels, layout.activation, gates[t], ups[t], chunk.rows, gates[t]);
  }
}

void CpuExpertFfn::Down(const ExpertLayout& layout, const Chunk& chunk, Mat out, float* scratch) {
  ChunkInputs inputs;
  inputs.tokens = chunk.tokens;
  inputs.all_tokens = static_cast<int64_t>(chunk.task->in_rows.size());
  inputs.converted = context_.inputs() + chunk.inputs;
  float* outputs[kMaxChunkTokens];
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    inputs.rows[t] = hidden_.data() + (chunk.entry + t) * layout.ffn;
    outputs[t] = out.row(chunk.task->out_rows[static_cast<size_t>(chunk.token + t)]) + chunk.row;
  }
  MultiplyRows(context_.kernels(), layout.down(chunk.task->slot), chunk.row, chunk.rows, inputs,
               outputs, scratch);
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    AddSlotBias(context_.kernels(), chunk.task->slot, layout.down_bias, chunk.row, chunk.rows,
                outputs[t]);
  }
}

}  // namespace hostler
