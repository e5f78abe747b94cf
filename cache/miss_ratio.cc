#include "cache/miss_ratio.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace hostler {
namespace {

// Of a sequence's tokens: what `ema` has.
constexpr double kRate = 0.1;
// Counts lose half their weight after so many decode requests of each layer.
constexpr int64_t kHalvingSteps = 256;
// Bins are an octave's 16ths, from 2^-31 to 2.
constexpr int kBinShift = 19;
constexpr uint32_t kFirstBin = (127u - 31u) << (23 - kBinShift);
// Below, nothing is told apart.
constexpr float kLeastScore = 4.656613e-10f;
// Lookups that the shadow's word outweighs what was seen by.
constexpr double kDoubt = 64;

}  // namespace

MissRatioEstimator::MissRatioEstimator(std::span<const Layer> layers)
    : layers_(layers.begin(), layers.end()) {
  int most = 0;
  for (const Layer& layer : layers_) {
    first_.push_back(scores_.size());
    scores_.resize(scores_.size() + layer.experts);
    bytes_in_bin_[0] += layer.experts * layer.slot_bytes;
    most = std::max(most, layer.experts);
  }
  bins_.resize(scores_.size());
  added_.resize(most);
  all_bytes_ = bytes_in_bin_[0];
}

int MissRatioEstimator::BinOf(float score) {
  if (score < kLeastScore) return 0;
  const uint32_t bin = (std::bit_cast<uint32_t>(score) >> kBinShift) - kFirstBin + 1;
  return static_cast<int>(std::min<uint32_t>(bin, kBins - 1));
}

// An expert of `bin` would be resident where all that score higher have room;
// those that score the same share what room is left.
void MissRatioEstimator::Count(int bin) {
  lookups_ += 1;
  if (bin == 0) return;  // never asked for before
  const double per_bucket = static_cast<double>(all_bytes_) / kBuckets;
  const double from = static_cast<double>(bytes_above_[bin]) / per_bucket;
  const double to = from + static_cast<double>(bytes_in_bin_[bin]) / per_bucket;
  const int first = std::min(static_cast<int>(from), kBuckets - 1);
  const int last = std::min(static_cast<int>(to), kBuckets - 1);
  const double share = 1 / (to - from);
  for (int bucket = first; bucket <= last; ++bucket) {
    hits_[bucket] += (std::min(to, bucket + 1.0) - std::max(from, double(bucket))) * share;
  }
}

void MissRatioEstimator::OnRequest(const ExpertRequest& request, int hits,
                                   uint64_t capacity_bytes) {
  const Layer& layer = layers_[request.layer];
  float* score = scores_.data() + first_[request.layer];
  uint16_t* bin = bins_.data() + first_[request.layer];
  const int tokens = request.num_tokens();
  if (tokens <= request.sequences) {
    uint64_t above = 0;
    for (int b = kBins; b-- > 0;) {
      bytes_above_[b] = above;
      above += bytes_in_bin_[b];
    }
    for (const int expert : request.experts) Count(bin[expert]);
    if (capacity_ != capacity_bytes) seen_lookups_ = seen_hits_ = 0;
    capacity_ = capacity_bytes;
    seen_lookups_ += static_cast<double>(request.experts.size());
    seen_hits_ += hits;
    Age();
  }
  // As token after token would have it; those of several sequences pass at once.
  const double rate = request.sequences > 1 ? kRate / tokens : kRate;
  double weight = rate;
  for (int t = tokens; t-- > 0;) {
    for (const int expert : request.token(t)) added_[expert] += static_cast<float>(weight);
    weight *= 1 - rate;
  }
  const float left = static_cast<float>(weight / rate);
  for (int expert = 0; expert < layer.experts; ++expert) {
    score[expert] = score[expert] * left + added_[expert];
    added_[expert] = 0;
    const int now = BinOf(score[expert]);
    if (now == bin[expert]) continue;
    bytes_in_bin_[bin[expert]] -= layer.slot_bytes;
    bytes_in_bin_[now] += layer.slot_bytes;
    bin[expert] = static_cast<uint16_t>(now);
  }
}

void MissRatioEstimator::Age() {
  if (++requests_ < kHalvingSteps * static_cast<int64_t>(layers_.size())) return;
  requests_ = 0;
  for (double& hits : hits_) hits /= 2;
  lookups_ /= 2;
  seen_lookups_ /= 2;
  seen_hits_ /= 2;
}

double MissRatioEstimator::ShadowHits(uint64_t bytes) const {
  double left = static_cast<double>(bytes) / static_cast<double>(all_bytes_) * kBuckets;
  double hits = 0;
  for (const double of_bucket : hits_) {
    if (left <= 0) break;
    hits += of_bucket * std::min(left, 1.0);
    left -= 1;
  }
  return hits;
}

std::vector<MissRatioPoint> MissRatioEstimator::Curve() const {
  if (lookups_ == 0) return {};
  const auto shadow_hits = [this](uint64_t bytes) { return ShadowHits(bytes) / lookups_; };
  const double shadow = shadow_hits(capacity_);
  const double seen = (seen_hits_ + kDoubt * shadow) / (seen_lookups_ + kDoubt);
  // Less memory keeps the same share of the hits that the shadow would keep;
  // more leaves the same share of its misses.
  const double of_hits = shadow > 0 ? seen / shadow : 0;
  const double of_misses = shadow < 1 ? (1 - seen) / (1 - shadow) : 0;
  std::vector<MissRatioPoint> curve;
  const auto add = [&](uint64_t bytes) {
    const double hits = shadow_hits(bytes);
    const double misses = bytes <= capacity_ ? 1 - hits * of_hits : (1 - hits) * of_misses;
    curve.push_back({bytes, std::clamp(misses, 0.0, curve.empty() ? 1 : curve.back().miss_ratio)});
  };
  for (int i = 0; i < kBuckets; ++i) {
    const uint64_t bytes = all_bytes_ / kBuckets * i;
    if (i > 0 && curve.back().bytes < capacity_ && capacity_ < bytes) add(capacity_);
    add(bytes);
  }
  curve.push_back({all_bytes_, 0});
  return curve;
}

double MissRatioAt(std::span<const MissRatioPoint> curve, uint64_t bytes) {
  for (size_t i = 1; i < curve.size(); ++i) {
    const MissRatioPoint& from = curve[i - 1];
    const MissRatioPoint& to = curve[i];
    if (bytes > to.bytes) continue;
    const double part =
        static_cast<double>(bytes - from.bytes) / static_cast<double>(to.bytes - from.bytes);
    return from.miss_ratio + part * (to.miss_ratio - from.miss_ratio);
  }
  return curve.back().miss_ratio;
}

std::string DescribeMoreMemory(std::span<const MissRatioPoint> curve, uint64_t capacity_bytes) {
  if (curve.empty()) return "";
  const uint64_t all = curve.back().bytes;
  if (capacity_bytes >= all) return "all experts fit: more memory buys no hits";
  const double now = 100 * (1 - MissRatioAt(curve, capacity_bytes));
  // A power of two, so that it is said in whole units.
  const uint64_t more = std::max(std::bit_ceil(capacity_bytes / 8), uint64_t{1} << 20);
  if (capacity_bytes + more >= all) {
    return fmt::format("with {} MiB more all experts fit ({:.0f}% hits now)",
                       (all - capacity_bytes + (1 << 20) - 1) >> 20, now);
  }
  const bool gibibytes = more >= uint64_t{1} << 30;
  return fmt::format("with {} {} more: {:.0f}% hits ({:.0f}% now)", more >> (gibibytes ? 30 : 20),
                     gibibytes ? "GiB" : "MiB",
                     100 * (1 - MissRatioAt(curve, capacity_bytes + more)), now);
}

}  // namespace hostler
