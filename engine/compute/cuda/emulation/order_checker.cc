#include "engine/compute/cuda/emulation/order_checker.h"

#include <algorithm>

#include "fmt/format.h"

namespace hostler::cuda_emulation {
namespace {

constexpr size_t kMostRaces = 16;

}  // namespace

void Clock::Reach(int stream, uint64_t operation) {
  if (stream >= int(seen_.size())) seen_.resize(stream + 1);
  seen_[stream] = std::max(seen_[stream], operation);
}

void Clock::Merge(const Clock& other) {
  for (size_t i = 0; i < other.seen_.size(); ++i) Reach(int(i), other.seen_[i]);
}

std::map<uintptr_t, OrderChecker::Segment>::iterator OrderChecker::Split(uintptr_t begin,
                                                                         uintptr_t end) {
  const auto split_at = [&](uintptr_t at) {
    auto after = segments_.upper_bound(at);
    if (after == segments_.begin()) return;
    const auto holds = std::prev(after);
    if (holds->first == at || holds->second.end <= at) return;
    Segment upper = holds->second;
    holds->second.end = at;
    segments_.emplace(at, std::move(upper));
  };
  split_at(begin);
  split_at(end);
  // Gaps become segments that nobody has touched.
  uintptr_t at = begin;
  while (at < end) {
    const auto next = segments_.lower_bound(at);
    if (next != segments_.end() && next->first == at) {
      at = next->second.end;
      continue;
    }
    const uintptr_t until = next == segments_.end() ? end : std::min(end, next->first);
    segments_[at].end = until;
    at = until;
  }
  return segments_.find(begin);
}

void OrderChecker::Use(int stream, uint64_t operation, const Clock& start, const Range& range,
                       bool writes, const char* what) {
  if (range.bytes == 0) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(range.data);
  const uintptr_t end = begin + range.bytes;
  const auto ordered = [&](const Access& before) {
    return before.stream == stream || before.stream < 0 ||
           start.of(before.stream) >= before.operation;
  };
  for (auto at = Split(begin, end); at != segments_.end() && at->first < end; ++at) {
    Segment& segment = at->second;
    if (!ordered(segment.written)) Report(segment.written, what, at->first, segment.end);
    if (!writes) {
      const auto mine = std::find_if(segment.read.begin(), segment.read.end(),
                                     [stream](const Access& a) { return a.stream == stream; });
      if (mine == segment.read.end()) {
        segment.read.push_back({stream, operation, what});
      } else {
        *mine = {stream, operation, what};
      }
      continue;
    }
    for (const Access& before : segment.read) {
      if (!ordered(before)) Report(before, what, at->first, segment.end);
    }
    segment.read.clear();
    segment.written = {stream, operation, what};
  }
}

void OrderChecker::Forget(const Range& range) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(range.data);
  const uintptr_t end = begin + range.bytes;
  Split(begin, end);
  segments_.erase(segments_.lower_bound(begin), segments_.lower_bound(end));
}

void OrderChecker::Report(const Access& before, const char* what, uintptr_t begin, uintptr_t end) {
  if (races_.size() >= kMostRaces) return;
  races_.push_back(fmt::format("{} of stream {} (its operation {}) and {} use {} bytes at {:#x}",
                               before.what, before.stream, before.operation, what, end - begin,
                               begin));
}

}  // namespace hostler::cuda_emulation
