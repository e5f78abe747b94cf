#include "engine/compute/interleave.h"

#include <cstring>

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

// A word of the same place in 16 rows.
using Words = uint32_t[kRows];

void StoreWords(const Words& words, std::byte* p) { std::memcpy(p, words, sizeof words); }

// A type has of a stored block: kElements, kBytes, kWords of quants from kQuantsAt on,
// its other kFields; of a panel's block: kQuantBytes. Part p of a stored block is columns
// [32 p, 32 p + 32). ToPanel: how the words of 16 rows' part go to a panel's block, in
// loops over rows that compilers turn into vector code; FromPanel: how those of one row
// come back.

// Nibbles as a panel has them: byte i is column i and, above it, column 16 + i.
template <int kBlockBytes, int kScaleBytes>
struct PlainNibbles {
  static constexpr int kElements = kBlock;
  static constexpr int kBytes = kBlockBytes;
  static constexpr int kQuantsAt = kScaleBytes;
  static constexpr int kWords = (kBlockBytes - kScaleBytes) / 4;
  static constexpr int kQuantBytes = 256;
  static constexpr Field kFields[] = {{0, kScaleBytes, kScaleBytes}};
  static void ToPanel(const Words* words, int part, std::byte* quants) {
    for (int k = 0; k < 4; ++k) StoreWords(words[part * 4 + k], quants + k * kRows * 4);
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
  static constexpr int kQuantsAt = 2;
  static constexpr int kWords = 8;
  static constexpr int kQuantBytes = 512;
  static constexpr Field kFields[] = {{0, 2, 2}};
  static void ToPanel(const Words* words, int, std::byte* quants) {
    for (int k = 0; k < 8; ++k) StoreWords(words[k], quants + k * kRows * 4);
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

void SharedNibblesToPanel(const Words* words, int shift, std::byte* quants) {
  for (int k = 0; k < 4; ++k) {
    Words out;
    for (int row = 0; row < kRows; ++row) {
      const uint32_t low = words[k][row] >> shift & kLowNibbles;
      const uint32_t high = words[4 + k][row] >> shift & kLowNibbles;
      out[row] = low | high << 4;
    }
    StoreWords(out, quants + k * kRows * 4);
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
  static constexpr int kQuantsAt = 16;
  static constexpr int kWords = 32;
  static constexpr int kQuantBytes = 256;
  static constexpr Field kFields[] = {{0, 4, 2}, {4, 12, 1}};
  static void ToPanel(const Words* words, int part, std::byte* quants) {
    SharedNibblesToPanel(words + part / 2 * 8, part % 2 * 4, quants);
  }
  static void FromPanel(const std::byte* quants, int part, int row, std::byte* block) {
    SharedNibblesFromPanel(quants, part % 2 * 4, row, block + 16 + part / 2 * 32);
  }
};

struct Q5_KRows {
  static constexpr int kElements = 256;
  static constexpr int kBytes = 176;
  static constexpr int kQuantsAt = 16;
  static constexpr int kWords = 8 + 32;
  static constexpr int kQuantBytes = 256 + 64;
  static constexpr Field kFields[] = {{0, 4, 2}, {4, 12, 1}};
  static void ToPanel(const Words* words, int part, std::byte* quants) {
    SharedNibblesToPanel(words + 8 + part / 2 * 8, part % 2 * 4, quants);
    for (int k = 0; k < 8; ++k) {
      Words fours;  // bit 8 i to bit i
      for (int row = 0; row < kRows; ++row) {
        const uint32_t bits = words[k][row] >> part & 0x01010101u;
        fours[row] = (bits | bits >> 7 | bits >> 14 | bits >> 21) & 15;
      }
      for (int two = 0; two < kRows / 2; ++two) {
        quants[256 + k * 8 + two] =
            static_cast<std::byte>(fours[2 * two] | fours[2 * two + 1] << 4);
      }
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
  static constexpr int kQuantsAt = 0;
  static constexpr int kWords = 32 + 16;
  static constexpr int kQuantBytes = 256 + 128;
  static constexpr Field kFields[] = {{208, 2, 2}, {192, 16, 1}};
  static constexpr int LowAt(int part) { return part / 4 * 64 + part % 2 * 32; }
  static constexpr int HighAt(int part) { return 128 + part / 4 * 32; }
  static void ToPanel(const Words* words, int part, std::byte* quants) {
    SharedNibblesToPanel(words + LowAt(part) / 4, part % 4 / 2 * 4, quants);
    const Words* const high = words + HighAt(part) / 4;
    for (int k = 0; k < 2; ++k) {
      Words out;
      for (int row = 0; row < kRows; ++row) {
        out[row] = 0;
        for (int f = 0; f < 4; ++f) {
          out[row] |= (high[k * 4 + f][row] >> part % 4 * 2 & 0x03030303u) << 2 * f;
        }
      }
      StoreWords(out, quants + 256 + k * kRows * 4);
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

// Calls f(width, at, in_panel) for what of a row's block are its scales: `width` bytes at
// `at` of the stored block and, for row 0, at `in_panel` of the panel's.
template <typename T, typename F>
void ForScales(F f) {
  int in_panel = 0;
  for (const Field& field : T::kFields) {
    for (int i = 0; i < field.bytes; i += field.width) {
      f(field.width, field.at + i, in_panel);
      in_panel += kRows * field.width;
    }
  }
}

// Copies for every row what lies `from` bytes after the one before to `to` bytes after.
template <int kWidth>
void CopyRows(const std::byte* in, size_t from, std::byte* out, size_t to) {
  for (size_t row = 0; row < kRows; ++row) std::memcpy(out + row * to, in + row * from, kWidth);
}

template <typename T>
void ToPanel(int64_t cols, const std::byte* in, std::byte* panel) {
  const PanelShape<T> shape(cols);
  const size_t row_bytes = shape.row_bytes();
  for (int64_t b = 0; b < shape.blocks; ++b) {
    const std::byte* blocks = in + static_cast<size_t>(b) * T::kBytes;
    Words words[T::kWords];
    for (int row = 0; row < kRows; ++row) {
      const std::byte* quants = blocks + static_cast<size_t>(row) * row_bytes + T::kQuantsAt;
      for (int i = 0; i < T::kWords; ++i) words[i][row] = LoadWord(quants + i * 4);
    }
    for (int part = 0; part < shape.kParts; ++part) {
      T::ToPanel(words, part, panel + shape.quants(b, part));
    }
    std::byte* const scales = panel + shape.scales(b);
    ForScales<T>([&](int width, int at, int in_panel) {
      if (width == 1) {
        CopyRows<1>(blocks + at, row_bytes, scales + in_panel, 1);
      } else {
        CopyRows<2>(blocks + at, row_bytes, scales + in_panel, 2);
      }
    });
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
    ForScales<T>([&](int width, int at, int in_panel) {
      const std::byte* scale = panel + shape.scales(b) + in_panel + row * width;
      block[at] = scale[0];
      if (width == 2) block[at + 1] = scale[1];
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
