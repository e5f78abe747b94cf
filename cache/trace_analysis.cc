#include "cache/trace_analysis.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <span>

#include "cache/predictor.h"
#include "cache/replay.h"

namespace hostler {
namespace {

constexpr std::array kSegments = {4, 16, 64};
constexpr std::array kCacheRatios = {1, 2, 4};
constexpr std::array kReuse = {1, 4, 16, 64};
constexpr std::array kCapacities = {.05, .1, .2, .3, .5, .7};

// A layer's choices, token after token.
struct LayerTokens {
  int experts = 0;
  int topk = 0;
  std::vector<int> chosen;  // [tokens, topk]
  int tokens() const { return static_cast<int>(chosen.size()) / topk; }
  std::span<const int> token(int t) const {
    return std::span(chosen).subspan(size_t(t) * topk, topk);
  }
};

std::vector<LayerTokens> ByLayer(const ExpertTrace& trace) {
  std::vector<LayerTokens> layers(trace.header.layers);
  for (LayerTokens& layer : layers) {
    layer.experts = trace.header.experts;
    layer.topk = trace.header.topk;
  }
  for (size_t i = 0; i < trace.lines.size(); ++i) {
    const std::span<const int> experts = trace.experts(i);
    std::vector<int>& chosen = layers[trace.lines[i].layer].chosen;
    chosen.insert(chosen.end(), experts.begin(), experts.end());
  }
  return layers;
}

// How many (segment, expert) pairs have the expert chosen f times, f = 0..m.
std::vector<uint64_t> Frequencies(const LayerTokens& layer, int m) {
  std::vector<uint64_t> pairs(m + 1);
  std::vector<int> count(layer.experts);
  for (int t = 0; t < layer.tokens(); ++t) {
    for (const int e : layer.token(t)) ++count[e];
    if (t >= m) {
      for (const int e : layer.token(t - m)) --count[e];
    }
    if (t + 1 < m) continue;
    for (const int f : count) ++pairs[f];
  }
  return pairs;
}

// F1 is greatest when every pair above one threshold is chosen.
void ScoreSegments(const std::vector<LayerTokens>& layers, SegmentScore* score) {
  const int m = score->tokens;
  std::vector<uint64_t> pairs(m + 1);
  for (const LayerTokens& layer : layers) {
    const std::vector<uint64_t> of_layer = Frequencies(layer, m);
    for (int f = 0; f <= m; ++f) pairs[f] += of_layer[f];
  }
  double uses = 0, hits = 0, chosen = 0;
  for (int f = 0; f <= m; ++f) uses += static_cast<double>(pairs[f]) * f;
  for (int f = m; f > 0; --f) {
    hits += static_cast<double>(pairs[f]) * f;
    chosen += static_cast<double>(pairs[f]) * m;
    const double f1 = chosen + uses > 0 ? 2 * hits / (chosen + uses) : 0;
    if (f1 <= score->srp) continue;
    score->srp = f1;
    score->size_ratio = chosen / uses;
  }
}

// Hits of a cache of `capacity` experts with sight of the next m tokens.
uint64_t SegmentCacheHits(const LayerTokens& layer, int m, int capacity) {
  std::vector<int> ahead(layer.experts), last_use(layer.experts, -1);
  std::vector<uint8_t> resident(layer.experts);
  int used = 0;
  uint64_t hits = 0;
  for (int t = 1; t <= std::min(m, layer.tokens() - 1); ++t) {
    for (const int e : layer.token(t)) ++ahead[e];
  }
  for (int t = 0; t < layer.tokens(); ++t) {
    for (const int e : layer.token(t)) last_use[e] = t;
    for (const int e : layer.token(t)) hits += resident[e];
    for (const int e : layer.token(t)) {
      if (resident[e]) continue;
      if (used == capacity) {
        int victim = -1;
        for (int v = 0; v < layer.experts; ++v) {
          if (!resident[v] || last_use[v] == t) continue;
          if (victim < 0 || ahead[v] < ahead[victim] ||
              (ahead[v] == ahead[victim] && last_use[v] < last_use[victim])) {
            victim = v;
          }
        }
        if (victim < 0) continue;
        resident[victim] = 0;
        --used;
      }
      resident[e] = 1;
      ++used;
    }
    if (t + 1 < layer.tokens()) {
      for (const int e : layer.token(t + 1)) --ahead[e];
    }
    if (t + 1 + m < layer.tokens()) {
      for (const int e : layer.token(t + 1 + m)) ++ahead[e];
    }
  }
  return hits;
}

std::vector<SegmentScore> Segments(const std::vector<LayerTokens>& layers) {
  int tokens = 0;
  for (const LayerTokens& layer : layers) tokens = std::max(tokens, layer.tokens());
  std::vector<SegmentScore> scores;
  for (const int m : kSegments) {
    if (m > tokens) break;
    SegmentScore score;
    score.tokens = m;
    ScoreSegments(layers, &score);
    for (size_t r = 0; r < kCacheRatios.size(); ++r) {
      double hits = 0, uses = 0;
      for (const LayerTokens& layer : layers) {
        const int capacity = std::min(kCacheRatios[r] * layer.topk, layer.experts);
        hits += SegmentCacheHits(layer, m, capacity);
        uses += layer.chosen.size();
      }
      score.sch[r] = hits / uses;
    }
    scores.push_back(score);
  }
  return scores;
}

void MeasureReuse(const std::vector<LayerTokens>& layers, TraceAnalysis* analysis) {
  double uses = 0, tenth = 0, fifth = 0, unused = 0;
  for (const LayerTokens& layer : layers) {
    std::vector<int> last_use(layer.experts, -1), count(layer.experts);
    for (int t = 0; t < layer.tokens(); ++t) {
      for (const int e : layer.token(t)) {
        ++count[e];
        ++uses;
        if (last_use[e] < 0) ++analysis->first_uses;
        for (size_t i = 0; last_use[e] >= 0 && i < kReuse.size(); ++i) {
          analysis->reuse_within[i] += t - last_use[e] <= kReuse[i];
        }
        last_use[e] = t;
      }
    }
    std::sort(count.begin(), count.end(), std::greater<>());
    unused += std::count(count.begin(), count.end(), 0);
    tenth += std::accumulate(count.begin(), count.begin() + (layer.experts + 5) / 10, 0.0);
    fifth += std::accumulate(count.begin(), count.begin() + (layer.experts + 2) / 5, 0.0);
  }
  for (double& share : analysis->reuse_within) share /= uses;
  analysis->first_uses /= uses;
  analysis->top_tenth = tenth / uses;
  analysis->top_fifth = fifth / uses;
  analysis->never_used = unused / (static_cast<double>(layers.size()) * layers[0].experts);
}

void MeasureAffinity(const RequestList& requests, TraceAnalysis* analysis) {
  const PolicyShape shape = requests.shape();
  auto predictor = NewTransitionPredictor(shape);
  std::vector<int> uses(size_t(shape.layers) * shape.experts);
  std::vector<ExpertGuess> guesses;
  std::vector<int> popular(shape.experts);
  double found = 0, found_popular = 0, all = 0;
  for (const auto& [decode, request] : requests.items()) {
    int* layer_uses = uses.data() + size_t(request.layer) * shape.experts;
    const std::span<const int> experts = request.experts;
    const auto holds = [experts](int e) {
      return std::find(experts.begin(), experts.end(), e) != experts.end();
    };
    const size_t k = request.experts.size();
    if (decode && !guesses.empty() && guesses[0].key.layer == request.layer) {
      all += k;
      for (size_t i = 0; i < std::min(k, guesses.size()); ++i) {
        found += holds(guesses[i].key.expert);
      }
      std::iota(popular.begin(), popular.end(), 0);
      std::partial_sort(popular.begin(), popular.begin() + k, popular.end(), [&](int a, int b) {
        return layer_uses[a] != layer_uses[b] ? layer_uses[a] > layer_uses[b] : a < b;
      });
      for (size_t i = 0; i < k; ++i) found_popular += holds(popular[i]);
    }
    for (int t = 0; t < request.num_tokens(); ++t) {
      for (const int e : request.token(t)) ++layer_uses[e];
    }
    predictor->OnRequest(request);
    guesses.clear();
    predictor->Predict(1, &guesses);
  }
  analysis->affinity = all > 0 ? found / all : 0;
  analysis->affinity_of_popular = all > 0 ? found_popular / all : 0;
}

}  // namespace

absl::StatusOr<TraceAnalysis> AnalyzeTrace(const ExpertTrace& trace) {
  TraceAnalysis analysis;
  for (const TraceLine& line : trace.lines) analysis.tokens += line.decode && line.layer == 0;
  if (analysis.tokens == 0) return absl::InvalidArgumentError("the trace has no decode tokens");
  const std::vector<LayerTokens> layers = ByLayer(trace);
  analysis.segments = Segments(layers);
  MeasureReuse(layers, &analysis);
  const RequestList requests(trace);
  MeasureAffinity(requests, &analysis);
  analysis.cycle = static_cast<double>(trace.header.topk) / trace.header.experts;
  for (const uint64_t bytes : trace.header.expert_bytes) {
    analysis.all_bytes += bytes * trace.header.experts;
  }
  analysis.bytes_assumed = trace.header.bytes_assumed;
  for (const double capacity : kCapacities) {
    auto policy = NewEvictionPolicy("default", requests.shape());
    if (!policy.ok()) return policy.status();
    const ReplayCounts counts =
        Replay(requests, {.capacity = CapacityOf(capacity, requests.shape())}, policy->get());
    const double rate = static_cast<double>(counts.hits) / counts.lookups;
    analysis.hits.push_back({capacity, rate});
  }
  for (const auto& [capacity, rate] : analysis.hits) {
    if (rate < kGoodShare * analysis.hits.back().rate) continue;
    analysis.budget = capacity;
    break;
  }
  return analysis;
}

std::string Verdict(const TraceAnalysis& analysis) {
  double at_fifth = 0, at_budget = 0;
  for (const auto& [capacity, rate] : analysis.hits) {
    if (capacity <= .2) at_fifth = rate;
    if (capacity <= analysis.budget) at_budget = rate;
  }
  const double most = analysis.hits.back().rate;  // what is not first uses
  const char* suits = at_fifth >= .75 * most  ? "suits offloading well"
                      : at_fifth >= .5 * most ? "suits offloading where reads are fast"
                                              : "suits offloading badly";
  std::string text = fmt::format(
      "This model {}: with a fifth of its experts in memory, {:.0f}% of those asked for are there, "
      "of {:.0f}% that can be.",
      suits, 100 * at_fifth, 100 * most);
  text += fmt::format(" One token asks for {:.1f}% of all experts; never give less.",
                      100 * analysis.cycle);
  std::string size;
  if (analysis.all_bytes > 0) {
    const double mib = analysis.budget * static_cast<double>(analysis.all_bytes) / (1 << 20);
    size = mib < 1024 ? fmt::format(" ({:.1f} MiB", mib) : fmt::format(" ({:.1f} GiB", mib / 1024);
    size += analysis.bytes_assumed ? ", their size being assumed)" : ")";
  }
  text += fmt::format(" Give {:.0f}% of the experts{}: {:.0f}% hits.", 100 * analysis.budget, size,
                      100 * at_budget);
  if (analysis.tokens < 256) {
    text += fmt::format(" These are {} tokens of one conversation: a longer trace says more.",
                        analysis.tokens);
  }
  return text;
}

}  // namespace hostler
