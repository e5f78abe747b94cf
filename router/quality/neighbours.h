// Prompts with known outcomes, found by what they mean: how well the models answered
// those that a prompt's embedding is nearest to (RouterBench's KNN router, Hu et al.
// 2024; routing with benchmark datasets, Shnitzer et al. 2023).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hostler {

struct NeighbourIndex {
  int32_t count = 0;                    // neighbours that are looked at
  float weight = 0;                     // of their mean in an estimate, 0 … 1
  std::vector<int8_t> embeddings = {};  // [rows, size]: of unit length, 1 is 127 / scale
  std::vector<float> scale = {};        // [rows]
  std::vector<uint8_t> quality = {};    // [rows, models], in 255ths

  int64_t rows() const { return static_cast<int64_t>(scale.size()); }
};

inline constexpr int kMaxNeighbours = 4096;
inline constexpr int64_t kMaxNeighbourRows = int64_t{1} << 24;

// Appends a row. An embedding of zeros is near to none.
void AddNeighbour(std::span<const float> embedding, std::span<const float> quality,
                  NeighbourIndex* index);

// Mean quality of the nearest rows, each weighing its squared cosine (those that point
// the other way: nothing); false when there is nothing to tell. Equally near ones: the
// earlier. The embedding has the index's size, `out` as many values as there are models.
bool NeighbourMean(const NeighbourIndex& index, std::span<const float> embedding,
                   std::span<float> out);

}  // namespace hostler
