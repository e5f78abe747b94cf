#include "engine/model/model.h"

namespace hostler {

void StepResult::FailRow(int row, int rows, const absl::Status& status) {
  if (row_status.empty()) row_status.resize(rows);
  row_status[row].Update(status);
}

}  // namespace hostler
