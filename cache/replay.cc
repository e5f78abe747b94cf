#include "cache/replay.h"

#include <cmath>

#include "cache/replay_residency.h"

namespace hostler {
namespace {

// Lines that make one request: a decode line, or a layer's lines of a prompt.
std::vector<size_t> GroupEnds(const ExpertTrace& trace) {
  std::vector<size_t> ends;
  const std::vector<TraceLine>& lines = trace.lines;
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool more = i + 1 < lines.size() && !lines[i].decode && !lines[i + 1].decode &&
                      lines[i].layer == lines[i + 1].layer && lines[i].step < lines[i + 1].step;
    if (!more) ends.push_back(i + 1);
  }
  return ends;
}

}  // namespace

RequestList::RequestList(const ExpertTrace& trace)
    : shape_{trace.header.layers, trace.header.experts} {
  const size_t topk = trace.header.topk;
  const std::vector<size_t> ends = GroupEnds(trace);
  chosen_ = trace.chosen;
  experts_.reserve(chosen_.size());
  offsets_.resize(trace.lines.size() + ends.size());
  items_.reserve(ends.size());
  std::vector<size_t> seen(shape_.experts, 0);  // number of the last request + 1
  size_t first = 0, first_offset = 0;
  for (size_t r = 0; r < ends.size(); ++r) {
    const size_t tokens = ends[r] - first;
    const size_t begin = experts_.size();
    for (size_t i = first * topk; i < ends[r] * topk; ++i) {
      if (seen[chosen_[i]] == r + 1) continue;
      seen[chosen_[i]] = r + 1;
      experts_.push_back(chosen_[i]);
    }
    for (size_t t = 0; t <= tokens; ++t) offsets_[first_offset + t] = static_cast<int>(t * topk);
    Item item;
    item.decode = trace.lines[first].decode;
    item.request.layer = trace.lines[first].layer;
    item.request.experts = std::span(experts_.data() + begin, experts_.size() - begin);
    item.request.offsets = std::span(offsets_).subspan(first_offset, tokens + 1);
    item.request.chosen = std::span(chosen_).subspan(first * topk, tokens * topk);
    items_.push_back(item);
    first = ends[r];
    first_offset += tokens + 1;
  }
}

int64_t CapacityOf(double fraction, const PolicyShape& shape) {
  return static_cast<int64_t>(std::floor(fraction * shape.layers * shape.experts + 0.5));
}

ReplayCounts Replay(const RequestList& requests, const ReplayOptions& options,
                    EvictionPolicy* policy) {
  ReplayCounts counts;
  Residency residency(requests, options, policy);
  std::vector<ExpertKey> missing;
  for (const auto& [decode, request] : requests.items()) {
    if (!decode && options.cold) continue;
    residency.Begin(request);
    missing.clear();
    for (const int expert : request.experts) {
      const ExpertKey key{request.layer, expert};
      if (!residency.has(key)) missing.push_back(key);
    }
    if (decode) {
      counts.lookups += request.experts.size();
      counts.hits += request.experts.size() - missing.size();
    }
    for (const ExpertKey key : missing) {
      ExpertKey victim;
      bool evicted = false;
      if (!residency.Insert(key, &victim, &evicted) && decode) ++counts.bypassed;
    }
  }
  return counts;
}

}  // namespace hostler
