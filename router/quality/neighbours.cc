#include "router/quality/neighbours.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace hostler {
namespace {

// Returns what 127 stands for in a unit vector.
template <typename T>
float Quantize(std::span<const float> embedding, T* out) {
  double squares = 0;
  float most = 0;
  for (const float value : embedding) {
    squares += static_cast<double>(value) * value;
    most = std::max(most, std::abs(value));
  }
  const bool sane = std::isfinite(squares) && most > 0;
  for (size_t i = 0; i < embedding.size(); ++i) {
    out[i] = sane ? static_cast<T>(std::lround(embedding[i] / most * 127)) : T{0};
  }
  return sane ? static_cast<float>(most / std::sqrt(squares)) : 0;
}

}  // namespace

void AddNeighbour(std::span<const float> embedding, std::span<const float> quality,
                  NeighbourIndex* index) {
  const size_t end = index->embeddings.size();
  index->embeddings.resize(end + embedding.size());
  index->scale.push_back(Quantize(embedding, index->embeddings.data() + end));
  for (const float value : quality) {
    index->quality.push_back(static_cast<uint8_t>(std::lround(value * 255)));
  }
}

bool NeighbourMean(const NeighbourIndex& index, std::span<const float> embedding,
                   std::span<float> out) {
  using Near = std::pair<float, int32_t>;  // cosine, row
  static thread_local std::vector<int16_t> asked;
  static thread_local std::vector<Near> near;
  asked.resize(embedding.size());
  const float scale = Quantize(embedding, asked.data()) / (127 * 127);
  near.clear();
  const int8_t* row = index.embeddings.data();
  for (int32_t r = 0; r < index.rows(); ++r, row += embedding.size()) {
    int32_t sum = 0;
    for (size_t i = 0; i < embedding.size(); ++i) sum += int32_t{row[i]} * asked[i];
    const float cosine = static_cast<float>(sum) * scale * index.scale[r];
    if (cosine > 0) near.emplace_back(cosine, r);
  }
  const auto nearer = [](const Near& a, const Near& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  const size_t count = std::min<size_t>(near.size(), index.count);
  std::partial_sort(near.begin(), near.begin() + count, near.end(), nearer);
  std::fill(out.begin(), out.end(), 0.0f);
  float weights = 0;
  for (size_t n = 0; n < count; ++n) {
    const float weight = near[n].first * near[n].first;
    const uint8_t* quality = index.quality.data() + near[n].second * out.size();
    for (size_t m = 0; m < out.size(); ++m) out[m] += weight * quality[m];
    weights += weight;
  }
  if (!(weights > 0)) return false;
  for (float& value : out) value /= 255 * weights;
  return true;
}

}  // namespace hostler
