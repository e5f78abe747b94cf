#include "engine/engine/gate_recorder.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>

#include "cache/expert_store.h"
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

uint64_t RingLines(int layers, int step_rows) { return uint64_t{2} * step_rows * layers; }

TraceHeader HeaderOf(const Model& model) {
  const ModelInfo& info = model.info();
  const ExpertStore& experts = *model.experts();
  TraceHeader header;
  const std::filesystem::path path = std::filesystem::path(info.path).lexically_normal();
  header.model = (path.has_filename() ? path : path.parent_path()).filename().string();
  header.layers = experts.num_layers();
  header.experts = info.experts;
  header.topk = info.experts_per_token;
  header.weights = true;
  for (int layer = 0; layer < header.layers; ++layer) {
    header.expert_bytes.push_back(experts.slot_bytes(layer));
  }
  return header;
}

// As shares of their sum: gates scale them as the architecture says.
void Normalize(std::span<float> weights) {
  float sum = 0;
  for (const float weight : weights) sum += weight;
  for (float& weight : weights) weight = sum > 0 ? weight / sum : 1.0f / weights.size();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GateRecorder>> GateRecorder::Create(const Options& options,
                                                                   const Model& model) {
  const TraceHeader header = HeaderOf(model);
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<TraceWriter> writer,
                           TraceWriter::Create(options.path, header));
  try {
    return std::unique_ptr<GateRecorder>(
        new GateRecorder(options, header.layers, header.topk, std::move(writer)));
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(fmt::format("no thread to record with: {}", error.what()));
  }
}

uint64_t GateRecorder::RingBytes(const Model& model, int step_rows) {
  return RingLines(model.experts()->num_layers(), step_rows) *
         (sizeof(Line) + model.info().experts_per_token * (sizeof(int) + sizeof(float)));
}

GateRecorder::GateRecorder(const Options& options, int layers, int topk,
                           std::unique_ptr<TraceWriter> writer)
    : options_(options),
      layers_(layers),
      topk_(topk),
      capacity_(RingLines(layers, options.step_rows)),
      writer_(std::move(writer)),
      lines_(capacity_),
      experts_(capacity_ * topk),
      weights_(capacity_ * topk) {
  parts_.reserve(options.step_rows);
  thread_ = std::thread([this] { Run(); });
}

GateRecorder::~GateRecorder() { (void)Finish(); }

void GateRecorder::BeginStep(const StepBatch& batch) {
  parts_.clear();
  uint64_t lines = 0;
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    parts_.push_back({sequence.first_row, sequence.rows, sequence.first_position,
                      sequence.rows == 1 && sequence.first_position >= sequence.prompt_tokens});
    lines += uint64_t(sequence.rows) * layers_;
  }
  step_lines_ = TakeRoom(lines) ? lines : 0;
  if (step_lines_ == 0) return;
  for (uint64_t i = 0; i < lines; ++i) lines_[(step_first_ + i) % capacity_] = {};
  uint64_t first = step_first_;
  for (const Part& part : parts_) {
    lines_[first % capacity_].part_lines = part.rows * layers_;
    first += uint64_t(part.rows) * layers_;
  }
}

// Sets step_first_; false: the step is not recorded.
bool GateRecorder::TakeRoom(uint64_t lines) {
  std::unique_lock lock(mutex_);
  const auto fits = [&] { return begun_ - done_ + lines <= capacity_; };
  if (options_.wait) room_.wait(lock, [&] { return fits() || !status_.ok(); });
  if (!status_.ok()) return false;
  step_first_ = begun_;
  if (fits()) return true;
  counts_.dropped += lines;
  return false;
}

void GateRecorder::Record(int layer, const ExpertSelection& selection) {
  if (step_lines_ == 0) return;
  uint64_t first = step_first_;
  for (const Part& part : parts_) {
    for (int i = 0; i < part.rows; ++i) {
      const size_t begin = selection.offsets[part.first_row + i];
      const size_t count = selection.offsets[part.first_row + i + 1] - begin;
      if (count != topk_) continue;
      const uint64_t at = (first + uint64_t(layer) * part.rows + i) % capacity_;
      lines_[at].trace = {part.decode, part.first_position + i, layer};
      lines_[at].recorded = true;
      std::copy_n(selection.experts.begin() + begin, topk_, experts_.begin() + at * topk_);
      std::copy_n(selection.weights.begin() + begin, topk_, weights_.begin() + at * topk_);
    }
    first += uint64_t(part.rows) * layers_;
  }
}

void GateRecorder::EndStep() {
  if (step_lines_ == 0) return;
  {
    std::lock_guard lock(mutex_);
    begun_ += step_lines_;
  }
  ready_.notify_one();
}

void GateRecorder::Run() {
  std::unique_lock lock(mutex_);
  bool told = false;  // of dropped lines
  while (status_.ok()) {
    if (begun_ == done_) {
      // Whoever reads the file meanwhile finds whole steps.
      lock.unlock();
      const absl::Status flushed = writer_->Flush();
      lock.lock();
      status_.Update(flushed);
      if (!status_.ok() || (stopping_ && begun_ == done_)) break;
      ready_.wait(lock, [this] { return stopping_ || begun_ != done_; });
      continue;
    }
    const bool tell = !told && counts_.dropped > 0;
    const uint64_t first = done_;
    lock.unlock();
    if (tell) Warn("lines are dropped, as they come faster than they can be written");
    told = told || tell;
    Counts part;
    absl::Status status;
    const uint64_t lines = WritePart(first, &part, &status);
    lock.lock();
    done_ += lines;
    counts_.written += part.written;
    counts_.left_out += part.left_out;
    status_ = std::move(status);
    room_.notify_one();
  }
  if (status_.ok()) return;
  room_.notify_one();
  const std::string why(status_.message());
  lock.unlock();
  (void)writer_->Flush();
  Warn(why);
}

uint64_t GateRecorder::WritePart(uint64_t first, Counts* counts, absl::Status* status) {
  const uint64_t lines = lines_[first % capacity_].part_lines;
  if (options_.max_bytes > 0 &&
      writer_->bytes() + lines * writer_->longest_line() > options_.max_bytes) {
    *status = absl::ResourceExhaustedError(
        fmt::format("recording has ended, as the file may grow to {}; {} lines are written",
                    FormatBytes(options_.max_bytes), writer_->lines()));
    return lines;
  }
  for (uint64_t i = first; i < first + lines; ++i) {
    const uint64_t at = i % capacity_;
    if (!lines_[at].recorded) {
      ++counts->left_out;
      continue;
    }
    const std::span<float> weights = std::span(weights_).subspan(at * topk_, topk_);
    Normalize(weights);
    writer_->Record(lines_[at].trace, std::span(experts_).subspan(at * topk_, topk_), weights);
    ++counts->written;
  }
  return lines;
}

absl::Status GateRecorder::Finish() {
  if (!thread_.joinable()) return status_;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_one();
  thread_.join();
  if (counts_.dropped > 0) {
    Warn(fmt::format("{} lines were dropped and {} written", counts_.dropped, counts_.written));
  }
  return status_;
}

GateRecorder::Counts GateRecorder::counts() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

void GateRecorder::Warn(const std::string& text) const {
  if (options_.warn) options_.warn(fmt::format("{}: {}", options_.path, text));
}

}  // namespace hostler
