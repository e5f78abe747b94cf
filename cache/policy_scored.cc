#include "cache/policy_scored.h"

#include <algorithm>
#include <limits>

namespace hostler {

ScoredPolicy::ScoredPolicy(PolicyShape shape)
    : shape_(shape),
      scores_(size_t(shape.layers) * shape.experts),
      resident_(scores_.size()),
      lowest_(shape.layers, kNone),
      is_running_(shape.experts) {
  running_.reserve(shape.experts);
}

void ScoredPolicy::OnRequest(const ExpertRequest& request) {
  if (running_layer_ >= 0) lowest_[running_layer_] = kUnknown;
  for (const int expert : running_) is_running_[expert] = 0;
  running_layer_ = request.layer;
  running_.assign(request.experts.begin(), request.experts.end());
  for (const int expert : running_) is_running_[expert] = 1;
  Update(request);
  lowest_[request.layer] = kUnknown;
}

void ScoredPolicy::OnInsert(ExpertKey key) {
  resident_[size_t(key.layer) * shape_.experts + key.expert] = 1;
  int& lowest = lowest_[key.layer];
  if (lowest == kUnknown || IsRunning(key.layer, key.expert)) return;
  const float* score = scores(key.layer);
  if (lowest == kNone || score[key.expert] < score[lowest] ||
      (score[key.expert] == score[lowest] && key.expert < lowest)) {
    lowest = key.expert;
  }
}

void ScoredPolicy::OnErase(ExpertKey key) {
  resident_[size_t(key.layer) * shape_.experts + key.expert] = 0;
  if (lowest_[key.layer] == key.expert) lowest_[key.layer] = kUnknown;
}

int ScoredPolicy::Scan(int layer, const std::function<bool(ExpertKey)>* evictable) const {
  const float* score = scores(layer);
  const uint8_t* resident = resident_.data() + size_t(layer) * shape_.experts;
  int lowest = kNone;
  for (int expert = 0; expert < shape_.experts; ++expert) {
    if (!resident[expert] || IsRunning(layer, expert)) continue;
    if (lowest != kNone && score[expert] >= score[lowest]) continue;
    if (evictable != nullptr && !(*evictable)({layer, expert})) continue;
    lowest = expert;
  }
  return lowest;
}

bool ScoredPolicy::PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) {
  bool found = false;
  float lowest_value = 0;
  for (int layer = 0; layer < shape_.layers; ++layer) {
    if (lowest_[layer] == kUnknown) lowest_[layer] = Scan(layer, nullptr);
    int expert = lowest_[layer];
    if (expert == kNone) continue;
    float value = Across({layer, expert});
    if (found && value >= lowest_value) continue;
    if (!evictable({layer, expert})) {
      expert = Scan(layer, &evictable);
      if (expert == kNone) continue;
      value = Across({layer, expert});
      if (found && value >= lowest_value) continue;
    }
    found = true;
    lowest_value = value;
    *victim = {layer, expert};
  }
  return found || PickRunning(evictable, victim);
}

bool ScoredPolicy::PickRunning(const std::function<bool(ExpertKey)>& evictable,
                               ExpertKey* victim) const {
  // Fewer slots than the acquisition needs: what was delivered makes room.
  bool found = false;
  float lowest = 0;
  for (const int expert : running_) {
    const ExpertKey key{running_layer_, expert};
    if (!resident_[size_t(key.layer) * shape_.experts + expert] || !evictable(key)) continue;
    const float score = scores(key.layer)[expert];
    if (found && score >= lowest) continue;
    found = true;
    lowest = score;
    *victim = key;
  }
  return found;
}

}  // namespace hostler
