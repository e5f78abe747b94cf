#include "server/bench/trace.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <fstream>
#include <string_view>

#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

constexpr int kMaxTokens = 1 << 24;  // of one request; more is a broken file
constexpr double kGrain_s = 3.0;
constexpr double kGrainTolerance_s = 0.0035;  // 3 ms and rounding

// Distinct streams of random numbers from one seed.
constexpr uint64_t kPromptLengths = 1;
constexpr uint64_t kOutputLengths = 2;
constexpr uint64_t kGaps = 3;

uint64_t Finalize(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

bool ValidLengths(int64_t prompt, int64_t output) {
  return prompt >= 0 && prompt <= kMaxTokens && output >= 0 && output <= kMaxTokens;
}

template <typename T>
bool TakeNumber(std::string_view* text, T* value) {
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *value);
  if (error != std::errc()) return false;
  text->remove_prefix(end - text->data());
  return true;
}

bool TakeComma(std::string_view* text) {
  if (text->empty() || text->front() != ',') return false;
  text->remove_prefix(1);
  return true;
}

bool ParseCsvRow(std::string_view line, PlannedRequest* row) {
  int64_t prompt = 0, output = 0;
  if (!TakeNumber(&line, &row->at_s) || !TakeComma(&line) || !TakeNumber(&line, &prompt) ||
      !TakeComma(&line) || !TakeNumber(&line, &output) || !line.empty() ||
      !ValidLengths(prompt, output)) {
    return false;
  }
  row->prompt_tokens = static_cast<int>(prompt);
  row->output_tokens = static_cast<int>(output);
  return true;
}

bool ParseJsonRow(const std::string& line, PlannedRequest* row) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return false;
  auto number = [&json](const char* key) {
    auto it = json.find(key);
    return it != json.end() && it->is_number() ? it->get<double>() : -1.0;
  };
  const double prompt = number("input_length"), output = number("output_length");
  if (!(prompt >= 0 && prompt <= kMaxTokens && output >= 0 && output <= kMaxTokens)) return false;
  row->at_s = number("timestamp") / 1000;
  row->prompt_tokens = static_cast<int>(prompt);
  row->output_tokens = static_cast<int>(output);
  auto ids = json.find("hash_ids");
  if (ids == json.end() || !ids->is_array()) return false;
  for (const auto& id : *ids) {
    if (!id.is_number_integer()) return false;
    row->blocks.push_back(id.get<int64_t>());
  }
  return row->blocks.size() == static_cast<size_t>(CeilDiv(row->prompt_tokens, kTraceBlockTokens));
}

int DrawFrom(IntRange range, uint64_t seed, uint64_t stream, uint64_t index) {
  const uint64_t width = static_cast<uint64_t>(range.last) - range.first + 1;
  return range.first + static_cast<int>(Mix64(seed, stream, index) % width);
}

}  // namespace

uint64_t Mix64(uint64_t seed, uint64_t a, uint64_t b) {
  return Finalize(Finalize(Finalize(seed) + a) + b);
}

absl::StatusOr<LoadPlan> ReadTrace(const std::string& path, int limit) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(fmt::format("cannot open trace {}", path));
  LoadPlan plan;
  std::string line;
  bool csv = false;
  for (int number = 1; std::getline(file, line); ++number) {
    if (limit > 0 && static_cast<int>(plan.requests.size()) == limit) break;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    if (number == 1 && line == "timestamp_s,context_tokens,generated_tokens") {
      csv = true;
      continue;
    }
    PlannedRequest row;
    row.index = static_cast<int>(plan.requests.size());
    const bool good = csv ? ParseCsvRow(line, &row) : ParseJsonRow(line, &row);
    if (!good || !std::isfinite(row.at_s) || row.at_s < 0) {
      return absl::InvalidArgumentError(
          fmt::format("{}:{}: not a row of an Azure CSV or a Mooncake JSONL trace", path, number));
    }
    if (!plan.requests.empty() && row.at_s < plan.requests.back().at_s) {
      return absl::InvalidArgumentError(
          fmt::format("{}:{}: rows are not in time order", path, number));
    }
    plan.requests.push_back(std::move(row));
  }
  if (plan.requests.empty()) {
    return absl::InvalidArgumentError(fmt::format("trace {} has no rows", path));
  }
  return plan;
}

void SpreadGrain(LoadPlan* plan) {
  auto on_grain = [](const PlannedRequest& r) {
    return std::abs(r.at_s - kGrain_s * std::round(r.at_s / kGrain_s)) <= kGrainTolerance_s;
  };
  std::vector<PlannedRequest>& requests = plan->requests;
  // One or two rows at the start of a finely timed trace may look coarse.
  if (requests.size() < 2 || !std::all_of(requests.begin(), requests.end(), on_grain)) return;
  for (PlannedRequest& r : requests) {
    const double x = r.index * 0.6180339887;
    r.at_s += kGrain_s * (x - std::floor(x));
  }
  std::stable_sort(requests.begin(), requests.end(),
                   [](const auto& a, const auto& b) { return a.at_s < b.at_s; });
  plan->spread = true;
}

absl::Status ScaleLengths(int divisor, LoadPlan* plan) {
  if (divisor < 1 || divisor > 64 || !std::has_single_bit(static_cast<unsigned>(divisor))) {
    return absl::InvalidArgumentError(
        fmt::format("the scale must be 1, 2, 4, 8, 16, 32 or 64, not {}", divisor));
  }
  for (PlannedRequest& r : plan->requests) {
    r.prompt_tokens = std::max(1, CeilDiv(r.prompt_tokens, divisor));
    r.output_tokens = std::max(1, CeilDiv(r.output_tokens, divisor));
  }
  plan->block_tokens /= divisor;
  return absl::OkStatus();
}

void SkipLongerThan(int context, LoadPlan* plan) {
  const size_t before = plan->requests.size();
  std::erase_if(plan->requests, [context](const PlannedRequest& r) {
    return int64_t{r.prompt_tokens} + r.output_tokens > context;
  });
  plan->skipped += static_cast<int>(before - plan->requests.size());
}

absl::StatusOr<IntRange> ParseIntRange(const std::string& text, int least) {
  IntRange range;
  std::string_view rest = text;
  bool good = TakeNumber(&rest, &range.first);
  range.last = range.first;
  if (good && !rest.empty()) {
    good = rest.front() == '-';
    rest.remove_prefix(1);
    good = good && TakeNumber(&rest, &range.last) && rest.empty();
  }
  if (!good || range.first < least || range.last < range.first) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is not a number or a range A-B of at least {}", text, least));
  }
  return range;
}

LoadPlan RandomPlan(int count, IntRange prompt, IntRange output, double rate, uint64_t seed) {
  LoadPlan plan;
  plan.requests.resize(count);
  double at_s = 0;
  for (int i = 0; i < count; ++i) {
    PlannedRequest& r = plan.requests[i];
    r.at_s = at_s;
    r.index = i;
    r.prompt_tokens = DrawFrom(prompt, seed, kPromptLengths, i);
    r.output_tokens = DrawFrom(output, seed, kOutputLengths, i);
    if (rate > 0) {
      const double uniform = (Mix64(seed, kGaps, i) >> 11) * 0x1p-53;  // [0, 1)
      at_s += -std::log1p(-uniform) / rate;
    }
  }
  return plan;
}

std::vector<int32_t> PromptTokens(const PlannedRequest& request, int block_tokens, IntRange ids,
                                  uint64_t seed) {
  const uint64_t usable = static_cast<uint64_t>(ids.last) - ids.first + 1;
  std::vector<int32_t> tokens(request.prompt_tokens);
  for (int i = 0; i < request.prompt_tokens; ++i) {
    const bool shared = !request.blocks.empty();
    const uint64_t block = shared ? request.blocks[i / block_tokens] : request.index;
    const uint64_t j = shared ? i % block_tokens : i;
    tokens[i] = ids.first + static_cast<int32_t>(Mix64(seed, block, j) % usable);
  }
  return tokens;
}

}  // namespace hostler
