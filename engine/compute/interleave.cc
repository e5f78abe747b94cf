#include "engine/compute/interleave.h"

#include <cstring>
#include <span>

namespace hostler {
namespace {

constexpr int kRows = kInterleavedRows;
constexpr int kBlock = 32;

uint32_t LoadWord(const std::byte* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

void StoreWord(uint32_t word, std::byte* p) { std::memcpy(p, &word, sizeof word); }

void OrWord(uint32_t word, std::byte* p) { StoreWord(LoadWord(p) | word, p); }

// `bytes` of a stored block from `at` on, which a panel has for all rows together,
// `width` of them at a time.
struct Field {
  int at, bytes, width;
};

// A type has of a stored block: kElements, kBytes, its kFields; of a panel's block:
// kQuantBytes. Part p of a stored block is columns [32 p, 32 p + 32). Quants: how words
// of a row's part go to a panel's block, and back.

// Nibbles as a panel has them: byte i is column i and, above it, column 16 + i.
template <int kBlockBytes, int kQuantsAt>
struct PlainNibbles {
  static constexpr int kElements = kBlock;
  static constexpr int kBytes = kBlockBytes;
  static constexpr int kQuantBytes = 256;
  static constexpr Field kFields[] = {{0, kQuantsAt, kQuantsAt}};
  static void ToPanel(const std::byte* block, int part, int row, std::byte* quants) {
    for (int k = 0; k < 4; ++k) {
      std::memcpy(quants + (k * kRows + row) * 4, block + kQuantsAt + part * 16 + k * 4, 4);
    }
  }
  static void FromPanel(const std::byte* quants, int part, int row, std::byte* block) {
    for (int k = 0; k < 4; ++k) {
      std::memcpy(block + kQuantsAt + part * 16 + k * 4, quants + (k * kRows + row) * 4, 4);
    }
  }
};

using Q4_0Rows = PlainNibbles<18, 2>;
using Mxfp4Rows = PlainNibbles<17, 1>;

struct IQ4_XSRows : PlainNibbles<136, 8> {
  static constexpr int kElements = 256;
  static constexpr Field kFields[] = {{0, 4, 2}, {4, 4, 1}};
};

struct Q8_0Rows {
  static constexpr int kElements = kBlock;
  static constexpr int kBytes = 34;
  static constexpr int kQuantBytes = 512;
  static constexpr Field kFields[] = {{0, 2, 2}};
  static void ToPanel(const std::byte* block, int, int row, std::byte* quants) {
    for (int k = 0; k < 8; ++k) {
      std::memcpy(quants + (k * kRows + row) * 4, block + 2 + k * 4, 4);
    }
  }
  static void FromPanel(const std::byte* quants, int, int row, std::byte* block) {
    for (int k = 0; k < 8; ++k) {
      std::memcpy(block + 2 + k * 4, quants + (k * kRows + row) * 4, 4);
    }
  }
};

// Nibbles of two parts that share their bytes: the low ones are of one part, the high
// ones (shift 4) of the other.
constexpr uint32_t kLowNibbles = 0x0f0f0f0f;

void SharedNibblesToPanel(const std::byte* bytes, int shift, int row, std::byte* quants) {
  for (int k = 0; k < 4; ++k) {
    const uint32_t low = LoadWord(bytes + k * 4) >> shift & kLowNibbles;
    const uint32_t high = LoadWord(bytes + 16 + k * 4) >> shift & kLowNibbles;
    StoreWord(low | high << 4, quants + (k * kRows + row) * 4);
  }
}

// `bytes` are zero before the first of the two.
void SharedNibblesFromPanel(const std::byte* quants, int shift, int row, std::byte* bytes) {
  for (int k = 0; k < 4; ++k) {
    const uint32_t word = LoadWord(quants + (k * kRows + row) * 4);
    OrWord((word & kLowNibbles) << shift, bytes + k * 4);
    OrWord((word >> 4 & kLowNibbles) << shift, bytes + 16 + k * 4);
  }
}

struct Q4_KRows {
  static constexpr int kElements = 256;
  static constexpr int kBytes = 144;
  static constexpr int kQuantBytes = 256;
  static constexpr Field kFields[] = {{0, 4, 2}, {4, 12, 1}};
  static void ToPanel(const std::byte* block, int part, int row, std::byte* quants) {
    SharedNibblesToPanel(block + 16 + part / 2 * 32, part % 2 * 4, row, quants);
  }
  static void FromPanel(const std::byte* quants, int part, int row, std::byte* block) {
    SharedNibblesFromPanel(quants, part % 2 * 4, row, block + 16 + part / 2 * 32);
  }
};

struct Q5_KRows {
  static constexpr int kElements = 256;
  static constexpr int kBytes = 176;
  static constexpr int kQuantBytes = 256 + 64;
  static constexpr Field kFields[] = {{0, 4, 2}, {4, 12, 1}};
  static void ToPanel(const std::byte* block, int part, int row, std::byte* quants) {
    SharedNibblesToPanel(block + 48 + part / 2 * 32, part % 2 * 4, row, quants);
    for (int k = 0; k < 8; ++k) {
      // Bit 8 i to bit i.
      const uint32_t bits = LoadWord(block + 16 + k * 4) >> part & 0x01010101u;
      const auto four = static_cast<std::byte>(bits * 0x10204080u >> 28 & 15);
      std::byte& two_rows = quants[256 + k * 8 + row / 2];
      two_rows = row % 2 == 0 ? four : two_rows | four << 4;
    }
  }
  static void FromPanel(const std::byte* quants, int part, int row, std::byte* block) {
    SharedNibblesFromPanel(quants, part % 2 * 4, row, block + 48 + part / 2 * 32);
    for (int k = 0; k < 8; ++k) {
      const uint32_t four = std::to_integer<uint32_t>(quants[256 + k * 8 + row / 2]) >> row % 2 * 4;
      const uint32_t bits = (four & 1) | (four & 2) << 7 | (four & 4) << 14 | (four & 8) << 21;
      OrWord(bits << part, block + 16 + k * 4);
    }
  }
};

struct Q6_KRows {
  static constexpr int kElements = 256;
  static constexpr int kBytes = 210;
  static constexpr int kQuantBytes = 256 + 128;
  static constexpr Field kFields[] = {{208, 2, 2}, {192, 16, 1}};
  static constexpr int LowAt(int part) { return part / 4 * 64 + part % 2 * 32; }
  static constexpr int HighAt(int part) { return 128 + part / 4 * 32; }
  static void ToPanel(const std::byte* block, int part, int row, std::byte* quants) {
    SharedNibblesToPanel(block + LowAt(part), part % 4 / 2 * 4, row, quants);
    for (int k = 0; k < 2; ++k) {
      uint32_t word = 0;
      for (int f = 0; f < 4; ++f) {
        const uint32_t two = LoadWord(block + HighAt(part) + (k * 4 + f) * 4) >> part % 4 * 2;
        word |= (two & 0x03030303u) << 2 * f;
      }
      StoreWord(word, quants + 256 + (k * kRows + row) * 4);
    }
  }
  static void FromPanel(const std::byte* quants, int part, int row, std::byte* block) {
    SharedNibblesFromPanel(quants, part % 4 / 2 * 4, row, block + LowAt(part));
    for (int k = 0; k < 2; ++k) {
      const uint32_t word = LoadWord(quants + 256 + (k * kRows + row) * 4);
      for (int f = 0; f < 4; ++f) {
        OrWord((word >> 2 * f & 0x03030303u) << part % 4 * 2,
               block + HighAt(part) + (k * 4 + f) * 4);
      }
    }
  }
};

// Calls f(rows of the type) for a type that has an interleaved form; returns whether
// there is one.
template <typename F>
bool ForType(DType type, F f) {
  switch (type) {
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      f(Q4_0Rows());
      return true;
    case DType::kQ8_0:
      f(Q8_0Rows());
      return true;
    case DType::kMXFP4:
      f(Mxfp4Rows());
      return true;
    case DType::kIQ4_XS:
      f(IQ4_XSRows());
      return true;
    case DType::kQ4_K:
      f(Q4_KRows());
      return true;
    case DType::kQ5_K:
      f(Q5_KRows());
      return true;
    case DType::kQ6_K:
      f(Q6_KRows());
      return true;
    default:
      return false;
  }
}

// Where things lie in a panel of rows of `cols` columns.
template <typename T>
struct PanelShape {
  explicit PanelShape(int64_t cols) : blocks(cols / T::kElements) {}

  static constexpr int kParts = T::kElements / kBlock;
  size_t row_bytes() const { return static_cast<size_t>(blocks) * T::kBytes; }
  size_t quants(int64_t block, int part) const {
    return static_cast<size_t>(block * kParts + part) * T::kQuantBytes;
  }
  size_t scales(int64_t block) const {
    constexpr size_t kScaleBytes = kRows * T::kBytes - kParts * T::kQuantBytes;
    return quants(blocks, 0) + static_cast<size_t>(block) * kScaleBytes;
  }

  int64_t blocks;
};

// Calls f(bytes, at, in_panel) for all runs of a row's block that are its scales:
// `bytes` at `at` of the stored block and at `in_panel` of the panel's.
template <typename T, typename F>
void ForScales(int row, F f) {
  int in_panel = 0;
  for (const Field& field : std::span(T::kFields)) {
    for (int i = 0; i < field.bytes; i += field.width) {
      f(field.width, field.at + i, in_panel + row * field.width);
      in_panel += kRows * field.width;
    }
  }
}

template <typename T>
void ToPanel(int64_t cols, const std::byte* in, std::byte* panel) {
  const PanelShape<T> shape(cols);
  for (int64_t b = 0; b < shape.blocks; ++b) {
    for (int row = 0; row < kRows; ++row) {
      const std::byte* block =
          in + static_cast<size_t>(row) * shape.row_bytes() + static_cast<size_t>(b) * T::kBytes;
      for (int part = 0; part < shape.kParts; ++part) {
        T::ToPanel(block, part, row, panel + shape.quants(b, part));
      }
      ForScales<T>(row, [&](int bytes, int at, int in_panel) {
        std::memcpy(panel + shape.scales(b) + in_panel, block + at, static_cast<size_t>(bytes));
      });
    }
  }
}

template <typename T>
void RowFromPanel(int64_t cols, const std::byte* panel, int row, std::byte* out) {
  const PanelShape<T> shape(cols);
  std::memset(out, 0, shape.row_bytes());
  for (int64_t b = 0; b < shape.blocks; ++b) {
    std::byte* block = out + static_cast<size_t>(b) * T::kBytes;
    for (int part = 0; part < shape.kParts; ++part) {
      T::FromPanel(panel + shape.quants(b, part), part, row, block);
    }
    ForScales<T>(row, [&](int bytes, int at, int in_panel) {
      std::memcpy(block + at, panel + shape.scales(b) + in_panel, static_cast<size_t>(bytes));
    });
  }
}

}  // namespace

bool CanInterleave(DType type) {
  return ForType(type, [](auto) {});
}

size_t InterleavedQuantBytes(DType type) {
  size_t bytes = 0;
  ForType(type, [&](auto rows) { bytes = decltype(rows)::kQuantBytes; });
  return bytes;
}

void InterleaveRows(DType type, int64_t rows, int64_t cols, const std::byte* in, std::byte* out) {
  const size_t panel_bytes = kRows * RowBytes(type, cols);
  const int64_t panels = rows / kRows;
  ForType(type, [&](auto t) {
    for (int64_t p = 0; p < panels; ++p) {
      const size_t at = static_cast<size_t>(p) * panel_bytes;
      ToPanel<decltype(t)>(cols, in + at, out + at);
    }
  });
  const size_t done = static_cast<size_t>(panels) * panel_bytes;
  std::memcpy(out + done, in + done, static_cast<size_t>(rows % kRows) * RowBytes(type, cols));
}

void DeinterleaveRow(DType type, int64_t rows, int64_t cols, const std::byte* in, int64_t row,
                     std::byte* out) {
  const size_t row_bytes = RowBytes(type, cols);
  if (row >= rows / kRows * kRows) {
    std::memcpy(out, in + static_cast<size_t>(row) * row_bytes, row_bytes);
    return;
  }
  ForType(type, [&](auto t) {
    RowFromPanel<decltype(t)>(cols, in + static_cast<size_t>(row / kRows * kRows) * row_bytes,
                              static_cast<int>(row % kRows), out);
  });
}

void DeinterleaveRows(DType type, int64_t rows, int64_t cols, const std::byte* in, std::byte* out) {
  const size_t row_bytes = RowBytes(type, cols);
  for (int64_t row = 0; row < rows; ++row) {
    DeinterleaveRow(type, rows, cols, in, row, out + static_cast<size_t>(row) * row_bytes);
  }
}

}  // namespace hostler
