#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cache/trace.h"

namespace hostler {
namespace {

constexpr std::string_view kMagic = "# expert-trace v1";
constexpr int kMostLayers = 4096;
constexpr int kMostExperts = 65536;
constexpr int kMostTopk = 1024;
constexpr int kMostSteps = 1 << 30;

template <typename Int>
bool ParseInt(std::string_view text, Int low, Int high, Int* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && *value >= low &&
         *value <= high;
}

std::string_view TakeUntil(std::string_view* text, char separator) {
  const size_t at = std::min(text->find(separator), text->size());
  const std::string_view taken = text->substr(0, at);
  text->remove_prefix(std::min(at + 1, text->size()));
  return taken;
}

class Parser {
 public:
  absl::StatusOr<ExpertTrace> Parse(std::string_view text) {
    bool named = false;  // the line of column names is past
    while (!text.empty()) {
      ++number_;
      std::string_view line = TakeUntil(&text, '\n');
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      if (number_ == 1 && line != kMagic) return Error("is not an expert-trace v1");
      if (line.empty()) continue;
      if (line[0] == '#') {
        if (named) return Error("a header line among the data");
        if (!ParseHeader(line.substr(1))) return Error(problem_);
      } else if (!named) {
        named = true;
        if (!line.starts_with("phase,step,layer,")) return Error("no column names");
        if (!CheckHeader()) return Error(problem_);
      } else if (!ParseLine(line)) {
        return Error(problem_);
      }
    }
    if (!named) return Error("ends before its data");
    return std::move(trace_);
  }

 private:
  absl::Status Error(std::string_view problem) const {
    return absl::InvalidArgumentError(fmt::format("line {}: {}", number_, problem));
  }

  bool Problem(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  bool ParseHeader(std::string_view line) {
    TraceHeader& header = trace_.header;
    while (!line.empty()) {
      const std::string_view field = TakeUntil(&line, ' ');
      const size_t equals = field.find('=');
      if (equals == field.npos) continue;
      const std::string_view name = field.substr(0, equals);
      const std::string_view value = field.substr(equals + 1);
      int weights = 0;
      bool good = true;
      if (name == "model") {
        header.model = value;
      } else if (name == "layers") {
        good = ParseInt(value, 1, kMostLayers, &header.layers);
      } else if (name == "experts") {
        good = ParseInt(value, 1, kMostExperts, &header.experts);
      } else if (name == "topk") {
        good = ParseInt(value, 1, kMostTopk, &header.topk);
      } else if (name == "weights") {
        good = ParseInt(value, 0, 1, &weights);
        header.weights = weights == 1;
      } else if (name == "expert_bytes") {
        good = ParseList(value, &header.expert_bytes);
      } else if (name == "expert_bytes_from") {
        header.bytes_assumed = value != "recorded";
      } else if (name == "dense_bytes") {
        good = ParseList(value, &header.dense_bytes);
      }
      if (!good) return Problem(fmt::format("bad {}", name));
    }
    return true;
  }

  static bool ParseList(std::string_view list, std::vector<uint64_t>* values) {
    values->clear();
    while (!list.empty()) {
      uint64_t value = 0;
      if (values->size() == kMostLayers ||
          !ParseInt(TakeUntil(&list, ','), uint64_t{0}, uint64_t{1} << 48, &value)) {
        return false;
      }
      values->push_back(value);
    }
    return true;
  }

  bool CheckHeader() {
    const TraceHeader& header = trace_.header;
    if (header.layers == 0 || header.experts == 0 || header.topk == 0) {
      return Problem("the header lacks layers, experts or topk");
    }
    if (header.topk > header.experts) return Problem("topk is more than experts");
    for (const auto* list : {&header.expert_bytes, &header.dense_bytes}) {
      if (!list->empty() && list->size() != header.layers) {
        return Problem("expert_bytes and dense_bytes have one number per layer");
      }
    }
    return true;
  }

  bool ParseLine(std::string_view line) {
    const TraceHeader& header = trace_.header;
    int phase = 0;
    TraceLine parsed;
    if (!ParseInt(TakeUntil(&line, ','), 0, 1, &phase)) return Problem("bad phase");
    if (!ParseInt(TakeUntil(&line, ','), 0, kMostSteps, &parsed.step)) return Problem("bad step");
    if (!ParseInt(TakeUntil(&line, ','), 0, header.layers - 1, &parsed.layer)) {
      return Problem("bad layer");
    }
    parsed.decode = phase == 1;
    const size_t first = trace_.chosen.size();
    for (int i = 0; i < header.topk; ++i) {
      int expert = 0;
      if (!ParseInt(TakeUntil(&line, ','), 0, header.experts - 1, &expert)) {
        return Problem("bad expert");
      }
      for (size_t j = first; j < trace_.chosen.size(); ++j) {
        if (trace_.chosen[j] == expert) return Problem("an expert twice");
      }
      trace_.chosen.push_back(expert);
    }
    for (int i = 0; header.weights && i < header.topk; ++i) {
      int weight = 0;
      if (!ParseInt(TakeUntil(&line, ','), -2'000'000'000, 2'000'000'000, &weight)) {
        return Problem("bad weight");
      }
      trace_.weights.push_back(static_cast<float>(weight) * 1e-6f);
    }
    if (!line.empty()) return Problem("more columns than the header says");
    trace_.lines.push_back(parsed);
    return true;
  }

  ExpertTrace trace_;
  int number_ = 0;
  std::string problem_;
};

absl::StatusOr<ExpertTrace> ReadOne(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(fmt::format("cannot read {}", path));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  absl::StatusOr<ExpertTrace> trace = ParseExpertTrace(text);
  if (trace.ok()) return trace;
  return absl::InvalidArgumentError(
      fmt::format("{}: {}", path, std::string(trace.status().message())));
}

}  // namespace

absl::StatusOr<ExpertTrace> ParseExpertTrace(std::string_view text) { return Parser().Parse(text); }

absl::StatusOr<ExpertTrace> ReadExpertTrace(const std::string& path) {
  std::error_code ignored;
  const size_t plus = path.find('+');
  if (plus == path.npos || std::filesystem::exists(path, ignored)) return ReadOne(path);
  absl::StatusOr<ExpertTrace> head = ReadOne(path.substr(0, plus));
  if (!head.ok()) return head;
  absl::StatusOr<ExpertTrace> tail = ReadOne(path.substr(plus + 1));
  if (!tail.ok()) return tail;
  const TraceHeader& a = head->header;
  const TraceHeader& b = tail->header;
  if (a.layers != b.layers || a.experts != b.experts || a.topk != b.topk ||
      a.weights != b.weights) {
    return absl::InvalidArgumentError(fmt::format("{}: the parts are of different shapes", path));
  }
  head->lines.insert(head->lines.end(), tail->lines.begin(), tail->lines.end());
  head->chosen.insert(head->chosen.end(), tail->chosen.begin(), tail->chosen.end());
  head->weights.insert(head->weights.end(), tail->weights.begin(), tail->weights.end());
  return head;
}

}  // namespace hostler
