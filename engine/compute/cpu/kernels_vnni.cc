#define HOSTLER_INPUT_BYTES 1
#include "engine/compute/cpu/integer.inc"

namespace hostler {
namespace {

// A panel that is in cache as an earlier unit was multiplied with it.
template <typename P>
class NearPanel {
 public:
  explicit NearPanel(const StoredPanel<P>& panel) : panel_(panel) {}
  void Fetch(int64_t, int) const {}
  HOSTLER_INLINE void Pair(int64_t b, int k, __m512i* low, __m512i* high) const {
    panel_.Pair(b, k, low, high);
  }
  HOSTLER_INLINE void Scales(int64_t b, __m512* scales, __m512* others) const {
    panel_.Scales(b, scales, others);
  }

 private:
  const StoredPanel<P>& panel_;
};

// Weights are unpacked for so many tokens at a time; to unpack them once for all and store
// them takes longer.
constexpr int kTokens = 8;

void Multiply(const UnitTask& task) {
  ForIntegerType(task.type, [&](auto type) {
    using P = decltype(type);
    const int64_t blocks = task.cols / kInputBlock;
    const auto multiply = [&](const auto& panel, int64_t row, int64_t token) {
      const int64_t left = task.tokens - token;
      const int64_t tokens = left < kUnitTokens ? left : int64_t{kUnitTokens};
      const std::byte* unit = task.x + static_cast<size_t>(token / kUnitTokens) * task.unit_bytes;
      float* y[kUnitTokens];
      for (int64_t t = 0; t < tokens; ++t) y[t] = task.y[token + t] + row;
      MultiplyUnit<P, kTokens>(panel, blocks, unit, tokens, 0, y, RowMask(task, row));
    };
    ForPanels<P>(task, [&](const StoredPanel<P>& panel, int64_t row) {
      multiply(panel, row, 0);
      for (int64_t token = kUnitTokens; token < task.tokens; token += kUnitTokens) {
        multiply(NearPanel<P>(panel), row, token);
      }
    });
  });
}

}  // namespace

const UnitKernels kVnniIntegerKernels = {
    .has = HasIntegers,
    .unit_bytes = UnitBytes,
    .scratch_bytes = ScratchBytes,
    .to_unit = ToUnit,
    .gather = Gather,
    .multiply = Multiply,
};

}  // namespace hostler
