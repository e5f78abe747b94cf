#include "engine/weights/source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace hostler {

std::string TensorInfo::ShapeString() const { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace hostler
