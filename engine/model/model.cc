#include "engine/model/model.h"

namespace hostler {

std::span<const float> StepResult::Logits(int index, int vocab) const {
  const int place = places.empty() ? index : places[index];
  if (place < 0) return {};
  return {logits.data() + size_t(place) * vocab, size_t(vocab)};
}

std::span<const LogitCandidate> StepResult::Strongest(int index) const {
  const int place = places.empty() ? index : places[index];
  if (place >= 0) return {};
  return {strongest.data() + size_t(~place) * strongest_count, size_t(strongest_count)};
}

void StepResult::FailRow(int row, int rows, const absl::Status& status) {
  if (row_status.empty()) row_status.resize(rows);
  row_status[row].Update(status);
}

}  // namespace hostler
