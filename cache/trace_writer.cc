#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>

#include "cache/trace.h"

namespace hostler {
namespace {

constexpr size_t kBufferBytes = 64 << 10;
constexpr size_t kNumberBytes = 12;  // of an int and its comma

std::string HeaderText(const TraceHeader& header) {
  std::string model = header.model.empty() ? "unknown" : header.model;
  for (char& c : model) {
    if (static_cast<unsigned char>(c) <= ' ') c = '_';
  }
  std::string text =
      fmt::format("# expert-trace v1\n# model={} layers={} experts={} topk={} weights={}\n", model,
                  header.layers, header.experts, header.topk, header.weights ? 1 : 0);
  if (!header.expert_bytes.empty()) {
    text += fmt::format("# expert_bytes_from=recorded expert_bytes={}\n",
                        fmt::join(header.expert_bytes, ","));
  }
  if (!header.dense_bytes.empty()) {
    text += fmt::format("# dense_bytes={}\n", fmt::join(header.dense_bytes, ","));
  }
  text += "phase,step,layer";
  for (int i = 0; i < header.topk; ++i) text += fmt::format(",e{}", i);
  for (int i = 0; header.weights && i < header.topk; ++i) text += fmt::format(",w{}", i);
  return text + "\n";
}

char* AppendInt(char* at, int value, char after) {
  at = std::to_chars(at, at + kNumberBytes, value).ptr;
  *at = after;
  return at + 1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceWriter>> TraceWriter::Create(const std::string& path,
                                                                 const TraceHeader& header) {
  if (header.layers < 1 || header.topk < 1 || header.experts < header.topk) {
    return absl::InvalidArgumentError(fmt::format("a trace of {} layers, {} experts, {} of them",
                                                  header.layers, header.experts, header.topk));
  }
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) {
    return absl::UnavailableError(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
  }
  return std::unique_ptr<TraceWriter>(new TraceWriter(file, header));
}

TraceWriter::TraceWriter(int file, const TraceHeader& header)
    : file_(file), header_(header), line_bytes_((3 + 2 * size_t(header.topk)) * kNumberBytes) {
  buffer_.reserve(std::max(kBufferBytes, 2 * line_bytes_));
  const std::string text = HeaderText(header);
  buffer_.reserve(std::max(buffer_.capacity(), text.size() + line_bytes_));
  buffer_ = text;
}

TraceWriter::~TraceWriter() {
  (void)Flush();
  close(file_);
}

void TraceWriter::Record(TraceLine line, std::span<const int> experts,
                         std::span<const float> weights) {
  const size_t topk = header_.topk;
  if (experts.size() != topk || line.layer < 0 || line.layer >= header_.layers ||
      (header_.weights && weights.size() != topk)) {
    ++left_out_;
    return;
  }
  if (buffer_.size() + line_bytes_ > buffer_.capacity()) (void)Flush();
  const size_t start = buffer_.size();
  buffer_.resize(start + line_bytes_);
  char* at = buffer_.data() + start;
  at = AppendInt(at, line.decode ? 1 : 0, ',');
  at = AppendInt(at, line.step, ',');
  at = AppendInt(at, line.layer, ',');
  for (size_t i = 0; i < topk; ++i) at = AppendInt(at, experts[i], ',');
  for (size_t i = 0; header_.weights && i < topk; ++i) {
    const float weight = std::min(std::max(weights[i], -2000.0f), 2000.0f);
    at = AppendInt(at, static_cast<int>(std::lround(weight * 1e6f)), ',');
  }
  at[-1] = '\n';
  buffer_.resize(at - buffer_.data());
  ++lines_;
}

absl::Status TraceWriter::Flush() {
  size_t done = 0;
  while (status_.ok() && done < buffer_.size()) {
    const ssize_t wrote = write(file_, buffer_.data() + done, buffer_.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      status_ =
          absl::UnavailableError(fmt::format("cannot write the trace: {}", std::strerror(errno)));
    } else {
      done += wrote;
      written_bytes_ += wrote;
    }
  }
  buffer_.clear();
  return status_;
}

}  // namespace hostler
