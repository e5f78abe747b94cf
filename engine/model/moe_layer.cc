#include "engine/model/moe_layer.h"

#include "engine/base/status.h"

namespace hostler {

uint64_t MoeWorkspace::Bytes(int max_rows, int max_entries, int experts, int64_t dim) {
  return sizeof(float) * (uint64_t(max_rows) * experts + uint64_t(max_entries) * dim);
}

absl::Status MoeWorkspace::Allocate(Backend* backend, int max_rows, int max_entries, int experts,
                                    int64_t dim) {
  HOSTLER_ASSIGN_OR_RETURN(logits_, backend->Allocate(sizeof(float) * max_rows * experts));
  HOSTLER_ASSIGN_OR_RETURN(outputs_, backend->Allocate(sizeof(float) * max_entries * dim));
  gate_logits = {reinterpret_cast<float*>(logits_->data()), max_rows, experts};
  expert_outputs = {reinterpret_cast<float*>(outputs_->data()), max_entries, dim};
  selection.offsets.reserve(max_rows + 1);
  selection.experts.reserve(max_entries);
  selection.weights.reserve(max_entries);
  group_offsets.reserve(experts + 1);
  group_rows.reserve(max_entries);
  group_entries.reserve(max_entries);
  wanted.reserve(experts);
  tasks.reserve(experts);
  return absl::OkStatus();
}

void MoeWorkspace::GroupByExpert(int rows, int experts) {
  const int entries = selection.offsets[rows];
  group_offsets.assign(experts + 1, 0);
  for (int e = 0; e < entries; ++e) ++group_offsets[selection.experts[e] + 1];
  wanted.clear();
  for (int x = 0; x < experts; ++x) {
    if (group_offsets[x + 1] > 0) wanted.push_back(x);
    group_offsets[x + 1] += group_offsets[x];
  }
  group_rows.resize(entries);
  group_entries.resize(entries);
  // Fill from the back so that the offsets end up at each group's start.
  for (int row = rows - 1; row >= 0; --row) {
    for (int e = selection.offsets[row + 1] - 1; e >= selection.offsets[row]; --e) {
      const int place = --group_offsets[selection.experts[e] + 1];
      group_rows[place] = row;
      group_entries[place] = e;
    }
  }
  group_offsets.erase(group_offsets.begin());
  group_offsets.push_back(entries);
}

void MoeLayer::FailRows(const MoeWorkspace& work, const AcquiredExpert& expert, int rows,
                        StepResult* result) const {
  for (int i = work.group_offsets[expert.expert]; i < work.group_offsets[expert.expert + 1]; ++i) {
    result->FailRow(work.group_rows[i], rows, expert.status);
  }
}

void MoeLayer::Forward(Backend& backend, ExpertCache& cache, MoeWorkspace& work, Mat x, Mat y,
                       StepResult* result) const {
  const int rows = static_cast<int>(x.rows);
  const Mat logits = work.gate_logits.first_rows(rows);
  backend.MatMul(gate_, x, logits);
  backend.SelectExperts(spec_, logits, &work.selection);
  work.GroupByExpert(rows, static_cast<int>(gate_.rows));

  ExpertCache::Acquisition acquisition = cache.Acquire(index_, work.wanted);
  for (std::span<const AcquiredExpert> ready = acquisition.Next(); !ready.empty();
       ready = acquisition.Next()) {
    work.tasks.clear();
    for (const AcquiredExpert& expert : ready) {
      if (expert.data == nullptr) {
        FailRows(work, expert, rows, result);
        continue;
      }
      const int first = work.group_offsets[expert.expert];
      const size_t count = work.group_offsets[expert.expert + 1] - first;
      work.tasks.push_back({expert.data,
                            {work.group_rows.data() + first, count},
                            {work.group_entries.data() + first, count}});
    }
    backend.ExpertFfn(layout_, work.tasks, x, work.expert_outputs);
  }
  backend.CombineExperts(work.selection, work.expert_outputs, y);
}

}  // namespace hostler
