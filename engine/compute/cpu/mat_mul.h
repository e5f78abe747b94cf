// The CPU backend's matrix products: how they are cut into chunks for threads.
#pragma once

#include <span>
#include <vector>

#include "engine/compute/backend.h"
#include "engine/compute/cpu/context.h"

namespace hostler {

// See Backend::HeadMatMul; with one head, y = x · wᵀ.
void CpuMatMul(CpuContext& context, const Weight& w, int heads, Mat x, Mat y);

// The grouped feed-forward of a step's experts; see Backend::ExpertFfn.
class CpuExpertFfn {
 public:
  explicit CpuExpertFfn(CpuContext& context) : context_(context) {}
  void Run(const ExpertLayout& layout, std::span<const ExpertTask> tasks, Mat x, Mat out);
  // See Backend::ExpertScratchBytes.
  size_t ScratchBytes(const ExpertLayout& layout, int64_t entries, int64_t experts) const;

 private:
  // Weight rows [row, row + rows) times a task's tokens [token, token + tokens).
  struct Chunk {
    const ExpertTask* task;
    int64_t entry;  // of the chunk's first token; its row of scaled_ and hidden_
    int64_t token, tokens;
    size_t inputs;  // where the chunk's converted inputs begin, if it has any
    int64_t row, rows;
  };
  int64_t Plan(const ExpertLayout& layout, std::span<const ExpertTask> tasks, int64_t rows,
               int64_t cols);
  void ScaleInputs(std::span<const ExpertTask> tasks, int64_t entries, Mat x);
  // A row of x as the task of an entry sees it.
  const float* InputOf(const ExpertTask& task, int64_t entry, int64_t token, Mat x) const;
  // Converts the inputs that `source(task, entry, token)` has to integers.
  template <typename Source>
  void ConvertInputs(std::span<const ExpertTask> tasks, int64_t cols, Source source);
  void GateUp(const ExpertLayout& layout, const Chunk& chunk, Mat x, float* scratch);
  void Down(const ExpertLayout& layout, const Chunk& chunk, Mat out, float* scratch);

  CpuContext& context_;
  std::vector<Chunk> chunks_;
  std::vector<Chunk> conversions_;  // without rows
  Scratch scaled_;                  // [entries, dim]: the inputs of tasks that scale theirs
  Scratch hidden_;                  // [entries, ffn]: act(gate · x, up · x)
};

}  // namespace hostler
