#define HOSTLER_INPUT_BYTES 1
#include "engine/compute/cpu/integer.inc"

namespace hostler {
namespace {

// A panel of bytes as they are multiplied, for more tokens than are at once.
template <typename P>
class PreparedPanel {
 public:
  static size_t Bytes(int64_t blocks) { return static_cast<size_t>(blocks) * (512 + 2 * 64); }

  PreparedPanel(const StoredPanel<P>& panel, int64_t blocks, std::byte* scratch)
      : quants_(scratch), scales_(reinterpret_cast<float*>(scratch + blocks * 512)) {
    for (int64_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        __m512i low, high;
        panel.Pair(b, k, &low, &high);
        _mm512_store_si512(quants_ + b * 512 + k * 64, low);
        _mm512_store_si512(quants_ + b * 512 + 256 + k * 64, high);
      }
      __m512 scales, others = _mm512_setzero_ps();
      panel.Scales(b, &scales, &others);
      _mm512_store_ps(scales_ + b * 32, scales);
      _mm512_store_ps(scales_ + b * 32 + 16, others);
    }
  }
  void Fetch(int64_t, int) const {}
  HOSTLER_INLINE void Pair(int64_t b, int k, __m512i* low, __m512i* high) const {
    *low = _mm512_load_si512(quants_ + b * 512 + k * 64);
    *high = _mm512_load_si512(quants_ + b * 512 + 256 + k * 64);
  }
  HOSTLER_INLINE void Scales(int64_t b, __m512* scales, __m512* others) const {
    *scales = _mm512_load_ps(scales_ + b * 32);
    *others = _mm512_load_ps(scales_ + b * 32 + 16);
  }

 private:
  std::byte* quants_;
  float* scales_;
};

constexpr int kTokens = 8;

void Multiply(const UnitTask& task) {
  ForIntegerType(task.type, [&](auto type) {
    using P = decltype(type);
    const int64_t blocks = task.cols / kInputBlock;
    const size_t prepared_bytes = PreparedPanel<P>::Bytes(blocks);
    const auto multiply = [&](const auto& panel, int64_t row) {
      for (int64_t token = 0; token < task.tokens; token += kUnitTokens) {
        const int64_t tokens =
            task.tokens - token < kUnitTokens ? task.tokens - token : int64_t{kUnitTokens};
        const std::byte* unit = task.x + static_cast<size_t>(token / kUnitTokens) * task.unit_bytes;
        float* y[kUnitTokens];
        for (int64_t t = 0; t < tokens; ++t) y[t] = task.y[token + t] + row;
        MultiplyUnit<P, kTokens>(panel, blocks, unit, tokens, 0, y, RowMask(task, row));
      }
    };
    ForPanels<P>(task, prepared_bytes, [&](const StoredPanel<P>& panel, int64_t row) {
      if (task.tokens <= kTokens) {
        multiply(panel, row);
      } else {
        multiply(PreparedPanel<P>(panel, blocks, task.scratch), row);
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
