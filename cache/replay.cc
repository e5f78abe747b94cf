#include "cache/replay.h"

#include <algorithm>
#include <cmath>

#include "cache/replay_residency.h"

namespace hostler {
namespace {

// The trace's lines that make one request: a decode line, or a layer's lines of
// a prompt.
std::vector<std::vector<size_t>> LinesOfRequests(const ExpertTrace& trace) {
  std::vector<std::vector<size_t>> requests;
  const std::vector<TraceLine>& lines = trace.lines;
  bool more = false;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (!more) requests.emplace_back();
    requests.back().push_back(i);
    more = i + 1 < lines.size() && !lines[i].decode && !lines[i + 1].decode &&
           lines[i].layer == lines[i + 1].layer && lines[i].step < lines[i + 1].step;
  }
  return requests;
}

// The same for `sequences` equal stretches of the decode lines, side by side.
std::vector<std::vector<size_t>> LinesOfBatches(const ExpertTrace& trace, int sequences) {
  std::vector<std::vector<size_t>> by_layer(trace.header.layers);
  for (size_t i = 0; i < trace.lines.size(); ++i) {
    if (trace.lines[i].decode) by_layer[trace.lines[i].layer].push_back(i);
  }
  size_t tokens = trace.lines.size();
  for (const auto& layer : by_layer) tokens = std::min(tokens, layer.size());
  const size_t steps = tokens / sequences;
  std::vector<std::vector<size_t>> requests;
  for (size_t step = 0; step < steps; ++step) {
    for (const auto& layer : by_layer) {
      requests.emplace_back();
      for (int s = 0; s < sequences; ++s) requests.back().push_back(layer[s * steps + step]);
    }
  }
  return requests;
}

}  // namespace

RequestList::RequestList(const ExpertTrace& trace, int sequences)
    : shape_{trace.header.layers, trace.header.experts} {
  const std::vector<std::vector<size_t>> requests =
      sequences > 1 ? LinesOfBatches(trace, sequences) : LinesOfRequests(trace);
  size_t lines = 0;
  for (const std::vector<size_t>& request : requests) lines += request.size();
  // Reserved, as the items point into them.
  chosen_.reserve(lines * trace.header.topk);
  experts_.reserve(lines * trace.header.topk);
  offsets_.reserve(lines + requests.size());
  items_.reserve(requests.size());
  std::vector<size_t> seen(shape_.experts, 0);  // number of the last request + 1
  for (size_t r = 0; r < requests.size(); ++r) {
    const size_t experts = experts_.size(), chosen = chosen_.size(), offsets = offsets_.size();
    offsets_.push_back(0);
    for (const size_t line : requests[r]) {
      for (const int expert : trace.experts(line)) {
        chosen_.push_back(expert);
        if (seen[expert] == r + 1) continue;
        seen[expert] = r + 1;
        experts_.push_back(expert);
      }
      offsets_.push_back(static_cast<int>(chosen_.size() - chosen));
    }
    const TraceLine& first = trace.lines[requests[r][0]];
    items_.push_back(
        {first.decode,
         {first.layer, std::span(experts_).subspan(experts), std::span(offsets_).subspan(offsets),
          std::span(chosen_).subspan(chosen), std::max(sequences, 1)}});
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
