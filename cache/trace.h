// Expert traces: which experts a model's gates chose, token by token and layer
// by layer, as text ("expert-trace v1"):
//
//   # expert-trace v1
//   # model=NAME layers=48 experts=128 topk=6 weights=1
//   # expert_bytes_from=recorded expert_bytes=3059712,…    one per layer
//   # dense_bytes=…                                        one per layer
//   phase,step,layer,e0,…,w0,…
//   1,28,0,17,4,…
//
// phase: 0 prefill, 1 decode; step: position of the token; layer: MoE layer;
// weights in millionths. Prefill lines by layer, then token; decode lines by
// token, then layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hostler {

struct TraceHeader {
  std::string model;
  int layers = 0;
  int experts = 0;  // of a layer
  int topk = 0;
  bool weights = false;
  std::vector<uint64_t> expert_bytes;  // [layers], or empty: not known
  std::vector<uint64_t> dense_bytes;   // [layers], or empty: not known
  bool bytes_assumed = false;          // expert_bytes_from says other than "recorded"
};

struct TraceLine {
  bool decode = false;
  int step = 0;
  int layer = 0;
};

struct ExpertTrace {
  TraceHeader header;
  std::vector<TraceLine> lines;
  std::vector<int> chosen;     // [lines, topk]
  std::vector<float> weights;  // [lines, topk], or empty

  std::span<const int> experts(size_t line) const {
    return std::span(chosen).subspan(line * header.topk, header.topk);
  }
};

// Errors: InvalidArgument naming the line.
absl::StatusOr<ExpertTrace> ParseExpertTrace(std::string_view text);

// A file, or "HEAD+TAIL": two files, the second going on where the first ends.
// Errors: NotFound, InvalidArgument naming file and line.
absl::StatusOr<ExpertTrace> ReadExpertTrace(const std::string& path);

// Appends to a file through a buffer of its own: a line costs a few hundred
// nanoseconds and allocates nothing. One thread at a time.
class TraceWriter {
 public:
  // Replaces the file. Errors: InvalidArgument for a header that makes no
  // sense, Unavailable when the file cannot be opened.
  static absl::StatusOr<std::unique_ptr<TraceWriter>> Create(const std::string& path,
                                                             const TraceHeader& header);
  ~TraceWriter();  // flushes; call Flush() to learn of errors
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // A line of fewer than topk experts, or one that does not fit the header, is
  // left out and counted. `weights`: topk shares that sum to 1, or empty.
  void Record(TraceLine line, std::span<const int> experts, std::span<const float> weights);

  // Errors: Unavailable; the first failure stays.
  absl::Status Flush();

  uint64_t lines() const { return lines_; }
  uint64_t bytes() const { return written_bytes_ + buffer_.size(); }
  size_t longest_line() const { return line_bytes_; }  // bytes
  uint64_t left_out() const { return left_out_; }

 private:
  TraceWriter(int file, const TraceHeader& header);

  const int file_;
  const TraceHeader header_;
  const size_t line_bytes_;  // the longest line
  std::string buffer_;
  absl::Status status_;
  uint64_t written_bytes_ = 0;
  uint64_t lines_ = 0;
  uint64_t left_out_ = 0;
};

}  // namespace hostler
