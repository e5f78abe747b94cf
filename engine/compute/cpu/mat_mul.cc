#include "engine/compute/cpu/mat_mul.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "engine/compute/cpu/activation.h"

namespace hostler {
namespace {

constexpr int64_t kRowsMultiple = 16;  // a cache line of results
// Of a chunk; they stay in cache.
constexpr int64_t kMostChunkResults = 8192;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

constexpr int64_t kMaxChunkTokens = std::max(kMaxTaskTokens, kMaxUnitTaskTokens);

// Entries a row from which on it is converted once and copied for each.
constexpr int64_t kGatherFrom = 2;

// Tokens a chunk takes: even shares of at most `most`, in whole tiles.
int64_t ChunkTokens(int64_t tokens, int64_t tile_tokens, int64_t most) {
  most = most / tile_tokens * tile_tokens;
  if (tokens <= most) return tokens;
  const int64_t parts = (tokens + most - 1) / most;
  return RoundUp((tokens + parts - 1) / parts, tile_tokens);
}

// Rows a chunk takes of `rows` in all: many chunks a thread, so that none waits long, as
// neighbours read on where the one before ended; of few tokens at most 256.
int64_t ChunkRows(int64_t rows, int64_t tokens, int threads) {
  const int64_t most =
      kMostChunkResults / std::max(tokens, kMaxChunkTokens / 4) / kRowsMultiple * kRowsMultiple;
  if (threads == 1) return most;
  return std::clamp(RoundUp(rows / (16 * threads), kRowsMultiple), kRowsMultiple, most);
}

// How inputs of `cols` values lie when they are converted, for one type's kernels or
// whichever of several types': units one after another.
class UnitInputs {
 public:
  UnitInputs(const KernelTable& kernels, std::initializer_list<DType> types, int64_t cols)
      : cols_(cols) {
    for (DType type : types) {
      const UnitKernels* units = UnitKernelsFor(kernels, type);
      if (units != nullptr) kernels_[count_++] = units;
    }
  }

  // Types that have units.
  int types() const { return count_; }
  size_t unit_bytes(int64_t tokens = kUnitTokens) const {
    size_t most = 0;
    for (int i = 0; i < count_; ++i) most = std::max(most, kernels_[i]->unit_bytes(tokens, cols_));
    return most;
  }
  size_t bytes(int64_t tokens) const {
    const int64_t rest = tokens % kUnitTokens;
    return static_cast<size_t>(tokens / kUnitTokens) * unit_bytes() +
           (rest == 0 ? 0 : unit_bytes(rest));
  }

 private:
  const UnitKernels* kernels_[3] = {};
  int count_ = 0;
  int64_t cols_;
};

int64_t Units(int64_t tokens) { return (tokens + kUnitTokens - 1) / kUnitTokens; }

// A chunk's inputs: as they are and, for types that have units, converted.
struct ChunkInputs {
  const float* rows[kMaxChunkTokens];
  const std::byte* converted = nullptr;
  size_t unit_bytes = 0;
  int64_t tokens = 0;
};

// Floats of scratch that products of w take.
size_t ScratchFloats(const KernelTable& kernels, DType type, int64_t cols) {
  const UnitKernels* units = UnitKernelsFor(kernels, type);
  return units != nullptr ? units->scratch_bytes(cols) / sizeof(float) : kMatMulScratchFloats;
}

// y[t][i] = x[t] · row `row` + i of w, for i < rows.
void MultiplyRows(const KernelTable& kernels, const Weight& w, int64_t row, int64_t rows,
                  const ChunkInputs& x, float* const* y, float* scratch) {
  const size_t row_bytes = RowBytes(w.dtype, w.cols);
  const std::byte* data = w.data + static_cast<size_t>(row) * row_bytes;
  const UnitKernels* units = UnitKernelsFor(kernels, w.dtype);
  if (units == nullptr) {
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
  units->multiply({.type = w.dtype,
                   .w = data,
                   .interleaved = w.interleaved,
                   .row_bytes = row_bytes,
                   .rows = rows,
                   .cols = w.cols,
                   .x = x.converted,
                   .unit_bytes = x.unit_bytes,
                   .y = y,
                   .tokens = x.tokens,
                   .scratch = reinterpret_cast<std::byte*>(scratch)});
}

// Adds entries [first, first + n) of the f32 vector at `offset` in a slot, if any.
void AddSlotBias(const KernelTable& kernels, const std::byte* slot, size_t offset, int64_t first,
                 int64_t n, float* y) {
  if (offset == ExpertLayout::kNone) return;
  kernels.add(reinterpret_cast<const float*>(slot + offset) + first, n, y);
}

}  // namespace

const UnitKernels* UnitKernelsFor(const KernelTable& kernels, DType type) {
  for (const UnitKernels* units : kernels.units) {
    if (units != nullptr && units->has(type)) return units;
  }
  return nullptr;
}

void CpuMatMul(CpuContext& context, const Weight& w, int heads, Mat x, Mat y) {
  if (x.rows == 0 || w.rows == 0) return;
  const KernelTable& kernels = context.kernels();
  const UnitKernels* unit_kernels = UnitKernelsFor(kernels, w.dtype);
  const UnitInputs layout(kernels, {w.dtype}, w.cols);
  const size_t head_bytes = layout.bytes(x.rows), unit_bytes = layout.unit_bytes();
  std::byte* converted = nullptr;
  if (unit_kernels != nullptr) {
    converted = context.ReserveInputs(static_cast<size_t>(heads) * head_bytes);
    const int64_t units = Units(x.rows);
    context.For(heads * units, x.rows * x.cols, [&](int64_t i, int) {
      const int64_t head = i / units, unit = i % units;
      const int64_t first = unit * kUnitTokens;
      const int64_t tokens = std::min<int64_t>(kUnitTokens, x.rows - first);
      const float* rows[kUnitTokens];
      for (int64_t t = 0; t < tokens; ++t) rows[t] = x.row(first + t) + head * w.cols;
      unit_kernels->to_unit(w.dtype, rows, tokens, w.cols,
                            converted + static_cast<size_t>(head) * head_bytes +
                                static_cast<size_t>(unit) * unit_bytes);
    });
  }
  const int64_t head_rows = w.rows / heads;
  const int64_t chunk_tokens = unit_kernels != nullptr
                                   ? ChunkTokens(x.rows, kUnitTokens, kMaxUnitTaskTokens)
                                   : ChunkTokens(x.rows, kernels.tile_tokens, kMaxTaskTokens);
  const int64_t chunk_rows = ChunkRows(head_rows, chunk_tokens, context.threads());
  const int64_t row_chunks = (head_rows + chunk_rows - 1) / chunk_rows;
  const int64_t token_chunks = (x.rows + chunk_tokens - 1) / chunk_tokens;
  context.ReserveScratch(ScratchFloats(kernels, w.dtype, w.cols));
  const int64_t chunks = row_chunks * token_chunks * heads;
  // Of few tokens what takes time is to read the weights.
  const int64_t weight_bytes = static_cast<int64_t>(RowBytes(w.dtype, w.cols)) * w.rows;
  const int64_t work = std::max(w.rows * w.cols * x.rows, weight_bytes);
  context.ForRuns(chunks, work, [&](int64_t chunk, int thread) {
    const int64_t head = chunk / (row_chunks * token_chunks);
    const int64_t head_row = chunk % row_chunks * chunk_rows;
    const int64_t row = head * head_rows + head_row;
    const int64_t token = chunk / row_chunks % token_chunks * chunk_tokens;
    ChunkInputs inputs;
    inputs.tokens = std::min(chunk_tokens, x.rows - token);
    inputs.unit_bytes = unit_bytes;
    inputs.converted = converted + static_cast<size_t>(head) * head_bytes +
                       static_cast<size_t>(token / kUnitTokens) * unit_bytes;
    float* outputs[kMaxChunkTokens];
    for (int64_t t = 0; t < inputs.tokens; ++t) {
      inputs.rows[t] = x.row(token + t) + head * w.cols;
      outputs[t] = y.row(token + t) + row;
    }
    MultiplyRows(kernels, w, row, std::min(chunk_rows, head_rows - head_row), inputs, outputs,
                 context.scratch(thread));
  });
}

void CpuMatMulBf16(CpuContext& context, const Bf16Tiles& w, const float* bias, Mat x, Mat y) {
  constexpr int64_t kTileBytes = kTileRows * kTileColumns * 2;
  constexpr int64_t kPanels = 4;  // of a chunk, whose tiles fit the second-level cache
  constexpr int64_t kTokens = 128;
  if (x.rows == 0) return;
  const int64_t steps = w.cols / kTileColumns;
  const int64_t run = steps * kTileBytes;
  const int64_t token_tiles = (x.rows + kTileRows - 1) / kTileRows;
  std::byte* const inputs = context.ReserveInputs(static_cast<size_t>(token_tiles * run));
  context.ReserveScratch(static_cast<size_t>(x.cols) / 2);
  context.For(token_tiles, x.rows * x.cols, [&](int64_t tile, int thread) {
    constexpr int64_t kStepBytes = kTileColumns * 2;
    auto* const row = reinterpret_cast<std::byte*>(context.scratch(thread));
    const int64_t first = tile * kTileRows, after = std::min(first + kTileRows, x.rows);
    for (int64_t t = first; t < after; ++t) {
      context.kernels().from_f32(DType::kBF16, x.row(t), x.cols, row);
      std::byte* const out = inputs + tile * run + (t - first) * kStepBytes;
      for (int64_t s = 0; s < steps; ++s) {
        std::memcpy(out + s * kTileBytes, row + s * kStepBytes, kStepBytes);
      }
    }
  });
  const int64_t panels = w.rows / kTileRows;
  const int64_t panel_chunks = (panels + kPanels - 1) / kPanels;
  const int64_t token_chunks = (x.rows + kTokens - 1) / kTokens;
  context.For(panel_chunks * token_chunks, w.rows * w.cols * x.rows, [&](int64_t chunk, int) {
    const int64_t panel = chunk % panel_chunks * kPanels;
    const int64_t token = chunk / panel_chunks * kTokens;
    context.kernels().mat_mul_bf16({.w = w.data + panel * run,
                                    .x = inputs + token / kTileRows * run,
                                    .steps = steps,
                                    .panels = std::min(kPanels, panels - panel),
                                    .tokens = std::min(kTokens, x.rows - token),
                                    .bias = bias + panel * kTileRows,
                                    .y = y.row(token) + panel * kTileRows,
                                    .y_stride = y.cols});
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
  context_.ReserveScratch(kMostChunkResults + scratch);
  const int64_t work = entries * layout.ffn * layout.dim;

  ScaleInputs(tasks, entries, x);
  const bool scales = std::any_of(tasks.begin(), tasks.end(),
                                  [](const ExpertTask& task) { return !task.in_scales.empty(); });
  // Rows that several experts take are converted once.
  const bool units =
      UnitInputs(kernels, {layout.gate_type, layout.up_type}, layout.dim).types() > 0;
  const bool gathers = units && !scales && entries >= kGatherFrom * x.rows;
  Plan(layout, tasks, layout.ffn, layout.dim, gathers ? x.rows : 0);
  ConvertGateUp(layout, gathers, x);
  context_.ForRuns(static_cast<int64_t>(chunks_.size()), 2 * work, [&](int64_t i, int thread) {
    GateUp(layout, chunks_[static_cast<size_t>(i)], x, context_.scratch(thread));
  });
  Plan(layout, tasks, layout.dim, layout.ffn, 0);
  ConvertDown(layout);
  context_.ForRuns(static_cast<int64_t>(chunks_.size()), work, [&](int64_t i, int thread) {
    Down(layout, chunks_[static_cast<size_t>(i)], out, context_.scratch(thread));
  });
}

size_t CpuExpertFfn::ScratchBytes(const ExpertLayout& layout, int64_t entries,
                                  int64_t experts) const {
  const KernelTable& kernels = context_.kernels();
  const size_t hidden = sizeof(float) * static_cast<size_t>(entries * layout.ffn);
  const UnitInputs inputs(kernels, {layout.gate_type, layout.up_type, layout.down_type},
                          std::max(layout.dim, layout.ffn));
  if (inputs.types() == 0) return hidden;
  // Every expert's last unit need not be full.
  const size_t units = static_cast<size_t>(entries / kUnitTokens + std::min(entries, experts));
  const size_t singles = static_cast<size_t>(entries / kGatherFrom);
  const size_t sets = layout.gate_type == layout.up_type ? 1 : 2;
  return hidden + sets * (units * inputs.unit_bytes() + singles * inputs.unit_bytes(1));
}

void CpuExpertFfn::Plan(const ExpertLayout& layout, std::span<const ExpertTask> tasks, int64_t rows,
                        int64_t cols, int64_t singles) {
  chunks_.clear();
  units_.clear();
  const KernelTable& kernels = context_.kernels();
  const UnitInputs inputs(kernels, {layout.gate_type, layout.up_type, layout.down_type}, cols);
  const bool converts = inputs.types() > 0;
  unit_bytes_ = inputs.unit_bytes();
  single_bytes_ = inputs.unit_bytes(1);
  const int64_t tile_tokens = converts ? kUnitTokens : kernels.tile_tokens;
  const int64_t most_tokens = inputs.types() == 3 ? kMaxUnitTaskTokens : kMaxTaskTokens;
  const int64_t all_rows = rows * static_cast<int64_t>(tasks.size());
  int64_t entry = 0;
  set_bytes_ = static_cast<size_t>(singles) * single_bytes_;
  for (const ExpertTask& task : tasks) {
    const int64_t tokens = static_cast<int64_t>(task.in_rows.size());
    size_t at = set_bytes_;
    if (singles > 0 && tokens == 1) {
      at = static_cast<size_t>(task.in_rows[0]) * single_bytes_;
    } else if (converts) {
      for (int64_t token = 0; token < tokens; token += kUnitTokens) {
        units_.push_back({.task = &task,
                          .entry = entry + token,
                          .token = token,
                          .tokens = std::min<int64_t>(kUnitTokens, tokens - token),
                          .inputs = at + static_cast<size_t>(token / kUnitTokens) * unit_bytes_});
      }
      set_bytes_ += inputs.bytes(tokens);
    }
    const int64_t step = ChunkTokens(tokens, tile_tokens, most_tokens);
    const int64_t chunk_rows = ChunkRows(all_rows, step, context_.threads());
    for (int64_t token = 0; token < tokens; token += step) {
      const size_t chunk_inputs = at + static_cast<size_t>(token / kUnitTokens) * unit_bytes_;
      for (int64_t row = 0; row < rows; row += chunk_rows) {
        chunks_.push_back({{.task = &task,
                            .entry = entry + token,
                            .token = token,
                            .tokens = std::min(step, tokens - token),
                            .inputs = chunk_inputs},
                           row,
                           std::min(chunk_rows, rows - row)});
      }
    }
    entry += tokens;
  }
}

// The first set of inputs is for gate's type, and for up's as well if that is the same.
void CpuExpertFfn::ConvertGateUp(const ExpertLayout& layout, bool gathers, Mat x) {
  const KernelTable& kernels = context_.kernels();
  const DType types[2] = {layout.gate_type, layout.up_type};
  const int sets = types[0] == types[1] ? 1 : 2;
  std::byte* const inputs = context_.ReserveInputs(set_bytes_ * static_cast<size_t>(sets));
  for (int set = 0; set < sets; ++set) {
    const UnitKernels* units = UnitKernelsFor(kernels, types[set]);
    if (units == nullptr) continue;
    std::byte* const out = inputs + static_cast<size_t>(set) * set_bytes_;
    if (!gathers) {
      ConvertUnits(types[set], layout.dim, out, [&](const Unit& unit, int64_t t) {
        return InputOf(*unit.task, unit.entry + t, unit.token + t, x);
      });
      continue;
    }
    context_.For(x.rows, x.rows * x.cols, [&](int64_t i, int) {
      const float* row = x.row(i);
      units->to_unit(types[set], &row, 1, layout.dim, out + static_cast<size_t>(i) * single_bytes_);
    });
    context_.For(static_cast<int64_t>(units_.size()),
                 static_cast<int64_t>(units_.size()) * kUnitTokens * layout.dim,
                 [&](int64_t i, int) {
                   const Unit& unit = units_[static_cast<size_t>(i)];
                   const std::byte* singles[kUnitTokens];
                   for (int64_t t = 0; t < unit.tokens; ++t) {
                     const auto row = unit.task->in_rows[static_cast<size_t>(unit.token + t)];
                     singles[t] = out + static_cast<size_t>(row) * single_bytes_;
                   }
                   units->gather(singles, unit.tokens, layout.dim, out + unit.inputs);
                 });
  }
}

void CpuExpertFfn::ConvertDown(const ExpertLayout& layout) {
  if (UnitKernelsFor(context_.kernels(), layout.down_type) == nullptr) return;
  ConvertUnits(
      layout.down_type, layout.ffn, context_.ReserveInputs(set_bytes_),
      [&](const Unit& unit, int64_t t) { return hidden_.data() + (unit.entry + t) * layout.ffn; });
}

template <typename Source>
void CpuExpertFfn::ConvertUnits(DType type, int64_t cols, std::byte* out, Source source) {
  const UnitKernels* kernels = UnitKernelsFor(context_.kernels(), type);
  const int64_t units = static_cast<int64_t>(units_.size());
  context_.For(units, units * kUnitTokens * cols, [&](int64_t i, int) {
    const Unit& unit = units_[static_cast<size_t>(i)];
    const float* rows[kUnitTokens];
    for (int64_t t = 0; t < unit.tokens; ++t) rows[t] = source(unit, t);
    kernels->to_unit(type, rows, unit.tokens, cols, out + unit.inputs);
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
  inputs.unit_bytes = unit_bytes_;
  inputs.converted = context_.inputs() + chunk.inputs;
  float* gates[kMaxChunkTokens];
  float* ups[kMaxChunkTokens];
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    inputs.rows[t] = InputOf(*chunk.task, chunk.entry + t, chunk.token + t, x);
    gates[t] = hidden_.data() + (chunk.entry + t) * layout.ffn + chunk.row;
    ups[t] = scratch + t * RoundUp(chunk.rows, kRowsMultiple);
  }
  const KernelTable& kernels = context_.kernels();
  const std::byte* slot = chunk.task->slot;
  float* product_scratch = scratch + kMostChunkResults;
  MultiplyRows(kernels, layout.gate(slot), chunk.row, chunk.rows, inputs, gates, product_scratch);
  if (layout.up_type != layout.gate_type) inputs.converted += set_bytes_;
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
  inputs.unit_bytes = unit_bytes_;
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
