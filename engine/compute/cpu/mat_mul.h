// The CPU backend's matrix products: how they are cut into chunks for threads.
#pragma once

#include <span>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// The kernels that convert inputs for weights of the type; null where they are taken as
// they are.
const UnitKernels* UnitKernelsFor(const KernelTable& kernels, DType type);

// See Backend::HeadMatMul; with one head, y = x · wᵀ.
void CpuMatMul(CpuContext& context, const Weight& w, int heads, Mat x, Mat y);

// See Backend::MatMulBf16.
void CpuMatMulBf16(CpuContext& context, const Bf16Tiles& w, const float* bias, Mat x, Mat y);

// The grouped feed-forward of a step's experts; see Backend::ExpertFfn.
class CpuExpertFfn {
 public:
  explicit CpuExpertFfn(CpuContext& context) : context_(context) {}
  void Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x, Mat out);
  // See Backend::ExpertScratchBytes.
  size_t ScratchBytes(const ExpertLayout& layout, int64_t entries, int64_t experts) const;

 private:
  // A task's tokens [token, token + tokens).
  struct Unit {
    const ExpertTask* task;
    int64_t entry;  // of the first token; its row of scaled_ and hidden_
    int64_t token, tokens;
    size_t inputs;  // where they are when converted, in a set of inputs
  };
  // Weight rows [row, row + rows) times them.
  struct Chunk : Unit {
    int64_t row, rows;
  };
  // Cuts products of [rows, cols] weights into chunks_, and what is to be converted for
  // them into units_. A set of inputs begins with `singles` units of one token each.
  void Plan(const ExpertLayout& layout, std::span<const ExpertTask> tasks, int64_t rows,
            int64_t cols, int64_t singles);
  void ScaleInputs(std::span<const ExpertTask> tasks, int64_t entries, Mat x);
  // A row of x as the task of an entry sees it.
  const float* InputOf(const ExpertTask& task, int64_t entry, int64_t token, Mat x) const;
  void ConvertGateUp(const ExpertLayout& layout, bool gathers, Mat x);
  void ConvertDown(const ExpertLayout& layout);
  // Converts units_, whose token t is source(unit, t).
  template <typename Source>
  void ConvertUnits(DType type, int64_t cols, std::byte* out, Source source);
  void GateUp(const ExpertLayout& layout, const Chunk& chunk, Mat x, float* scratch);
  void Down(const ExpertLayout& layout, const Chunk& chunk, Mat out, float* scratch);

  CpuContext& context_;
  std::vector<Chunk> chunks_;
  std::vector<Unit> units_;
  size_t set_bytes_ = 0;                      // of a set of inputs
  size_t unit_bytes_ = 0, single_bytes_ = 0;  // of its units of 16 tokens, and of one
  Scratch scaled_;  // [entries, dim]: the inputs of tasks that scale theirs
  Scratch hidden_;  // [entries, ffn]: act(gate · x, up · x)
};

}  // namespace hostler
