#include <algorithm>

#include "cache/replay.h"
#include "cache/replay_residency.h"

namespace hostler {
namespace {

// The clock of ReplayTimed. Speculative reads fill the time that the disk has
// left; a demand waits for the one under way, no longer.
class TimedReplay {
 public:
  TimedReplay(const RequestList& requests, const ReplayOptions& options, const ReplayTiming& timing,
              EvictionPolicy* policy)
      : requests_(requests),
        timing_(timing),
        residency_(requests, options, policy),
        read_ahead_(size_t(requests.shape().layers) * requests.shape().experts) {}

  void Step(const RequestList::Item& item) {
    const ExpertRequest& request = item.request;
    layer_ = request.layer;
    ReadAheadUntil(now_);
    queue_.clear();
    asked_ = now_;
    residency_.Begin(request);
    missing_.clear();
    double arrives = 0;
    for (const int expert : request.experts) {
      const ExpertKey key{layer_, expert};
      uint8_t& mark = read_ahead_[residency_.Index(key)];
      if (residency_.has(key) && !(mark && InFlight(key))) {
        mark = 0;
      } else if (residency_.has(key)) {  // promoted: wait for the rest of the read
        mark = 0;
        arrives = disk_free_;
        missing_.push_back(key);
      } else {
        missing_.push_back(key);
      }
    }
    CountWaste();
    if (item.decode) {
      times_.counts.lookups += request.experts.size();
      times_.counts.hits += request.experts.size() - missing_.size();
    }
    for (const ExpertKey key : missing_) {
      if (residency_.has(key)) continue;
      disk_free_ = arrives = std::max(disk_free_, now_) + ReadSeconds();
      if (item.decode) times_.demand_bytes += timing_.expert_bytes[layer_];
      Keep(key);
    }
    Compute(request, arrives, item.decode);
  }

  void Guess(ExpertKey key) {
    if (!residency_.has(key)) queue_.push_back(key);
  }

  ReplayTimes Finish() { return times_; }

 private:
  double ReadSeconds() const { return timing_.expert_bytes[layer_] / timing_.bandwidth_bytes_s; }
  bool InFlight(ExpertKey key) const { return key == last_read_ahead_ && disk_free_ > now_; }

  void Keep(ExpertKey key) {
    ExpertKey victim;
    bool evicted = false;
    residency_.Insert(key, &victim, &evicted);
    if (evicted) Waste(victim);
  }

  void Waste(ExpertKey key) {
    uint8_t& mark = read_ahead_[residency_.Index(key)];
    if (mark) times_.wasted_bytes += timing_.expert_bytes[key.layer];
    mark = 0;
  }

  // What was read for this visit of the layer and not asked for.
  void CountWaste() {
    for (int expert = 0; expert < requests_.shape().experts; ++expert) Waste({layer_, expert});
  }

  // Resident experts compute while the others come; the last one after it came.
  void Compute(const ExpertRequest& request, double arrives, bool decode) {
    const double compute = timing_.compute_s / requests_.shape().layers;
    double end = now_ + compute;
    if (arrives > 0) end = std::max(end, arrives + compute / request.experts.size());
    if (decode) {
      times_.stall_seconds += end - now_ - compute;
      times_.seconds += end - now_;
      if (request.layer == 0) times_.tokens += request.num_tokens();
    }
    now_ = end;
  }

  void ReadAheadUntil(double time) {
    for (const ExpertKey key : queue_) {
      const double start = std::max(disk_free_, asked_);
      if (start >= time) break;
      if (residency_.has(key)) continue;
      ExpertKey victim;
      bool evicted = false;
      if (!residency_.Insert(key, &victim, &evicted, false)) continue;
      if (evicted) Waste(victim);
      const uint64_t bytes = timing_.expert_bytes[key.layer];
      disk_free_ = start + bytes / timing_.bandwidth_bytes_s;
      times_.speculative_bytes += bytes;
      read_ahead_[residency_.Index(key)] = 1;
      last_read_ahead_ = key;
    }
  }

  const RequestList& requests_;
  const ReplayTiming& timing_;
  Residency residency_;
  ReplayTimes times_;
  std::vector<uint8_t> read_ahead_;  // resident because of a guess not yet judged
  std::vector<ExpertKey> queue_;
  std::vector<ExpertKey> missing_;
  ExpertKey last_read_ahead_{-1, -1};
  int layer_ = 0;
  double now_ = 0;
  double asked_ = 0;  // since when the queue may be read
  double disk_free_ = 0;
};

}  // namespace

ReplayTimes ReplayTimed(const RequestList& requests, const ReplayOptions& options,
                        const ReplayTiming& timing, EvictionPolicy* policy, Prediction prediction,
                        ExpertPredictor* predictor) {
  TimedReplay replay(requests, options, timing, policy);
  const std::span<const RequestList::Item> items = requests.items();
  std::vector<ExpertGuess> guesses;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].decode && options.cold) continue;
    replay.Step(items[i]);
    if (prediction == Prediction::kPredictor) predictor->OnRequest(items[i].request);
    if (!items[i].decode) continue;
    for (int ahead = 1; ahead <= timing.ahead; ++ahead) {
      if (prediction == Prediction::kPerfect && i + ahead < items.size()) {
        const ExpertRequest& next = items[i + ahead].request;
        for (const int expert : next.experts) replay.Guess({next.layer, expert});
      } else if (prediction == Prediction::kPredictor) {
        guesses.clear();
        predictor->Predict(ahead, &guesses);
        for (const ExpertGuess& guess : guesses) {
          if (guess.chance >= timing.least_chance) replay.Guess(guess.key);
        }
      }
    }
  }
  return replay.Finish();
}

}  // namespace hostler
