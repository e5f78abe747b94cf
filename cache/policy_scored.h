// What policies share that give every expert a score: which resident expert
// has the lowest one.
//
// Scores of a layer change when the layer is requested. So each layer keeps its
// lowest resident, and a victim costs one look at every layer and one scan of
// the layer that lost it, not a scan of all that is resident.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cache/policy.h"

namespace hostler {

class ScoredPolicy : public EvictionPolicy {
 public:
  explicit ScoredPolicy(PolicyShape shape);

  void OnRequest(const ExpertRequest& request) final;
  void OnInsert(ExpertKey key) final;
  void OnErase(ExpertKey key) final;
  bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) final;

 protected:
  // Updates the scores, among them all that changed for other layers; of those
  // it calls ScoresChanged.
  virtual void Update(const ExpertRequest& request) = 0;
  // A score of `layer` as it compares with those of other layers now. Does not
  // change the order within a layer.
  virtual float Across(int /*layer*/, float score) const { return score; }

  const PolicyShape& shape() const { return shape_; }
  int running_layer() const { return running_layer_; }
  // [experts]; the lowest leaves first, of equal ones the first.
  float* scores(int layer) { return scores_.data() + size_t(layer) * shape_.experts; }
  const float* scores(int layer) const { return scores_.data() + size_t(layer) * shape_.experts; }
  float Across(ExpertKey key) const { return Across(key.layer, scores(key.layer)[key.expert]); }
  void ScoresChanged(int layer) { lowest_[layer] = kUnknown; }

 private:
  static constexpr int kUnknown = -1;
  static constexpr int kNone = -2;

  bool IsRunning(int layer, int expert) const {
    return layer == running_layer_ && is_running_[expert];
  }
  // The lowest resident of `layer` that is not of the running request and, with
  // `evictable`, may leave; or kNone.
  int Scan(int layer, const std::function<bool(ExpertKey)>* evictable) const;
  bool PickRunning(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) const;

  const PolicyShape shape_;
  std::vector<float> scores_;      // [layers, experts]
  std::vector<uint8_t> resident_;  // [layers, experts]
  std::vector<int> lowest_;        // [layers]: expert, kUnknown or kNone
  int running_layer_ = -1;
  std::vector<int> running_;         // experts of the running request
  std::vector<uint8_t> is_running_;  // [experts]
};

}  // namespace hostler
