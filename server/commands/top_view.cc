#include "server/commands/top_view.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "cache/latency.h"
#include "engine/base/bytes.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using Json = nlohmann::json;
using Path = std::initializer_list<const char*>;

constexpr int kLeastWidth = 30;
constexpr int kIndent = 11;  // of what stands behind a row's name
constexpr char kReset[] = "\033[0m";
constexpr char kBold[] = "\033[1m";
// From nothing to all of it.
constexpr std::array kHeatColors = {"\033[34m", "\033[36m", "\033[32m", "\033[33m", "\033[31m"};
constexpr std::array kHeatGlyphs = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

const Json& At(const Json& json, Path path) {
  static const Json kNothing;
  const Json* at = &json;
  for (const char* key : path) {
    if (!at->is_object()) return kNothing;
    const auto found = at->find(key);
    if (found == at->end()) return kNothing;
    at = &*found;
  }
  return *at;
}

double Number(const Json& json, Path path) {
  const Json& value = At(json, path);
  return value.is_number() ? value.get<double>() : 0;
}

std::string Text(const Json& value) {
  return value.is_string() ? Printable(value.get<std::string>()) : "?";
}

std::string Bytes(double bytes) {
  return FormatBytes(static_cast<uint64_t>(std::clamp(bytes, 0.0, 1e18)));
}

std::string Percent(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f}%", 100 * part / whole) : "-";
}

std::string Seconds(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.1f} ms", seconds * 1e3);
  return fmt::format("{:.1f} s", seconds);
}

// One model, then and now.
class Model {
 public:
  Model(const Json* before, const Json& now, double seconds)
      : before_(before), now_(now), seconds_(seconds) {}

  const Json& at(Path path) const { return At(now_, path); }
  double number(Path path) const { return Number(now_, path); }
  // Since `before`; 0 where the server was started anew.
  double Growth(Path path) const {
    return before_ == nullptr ? 0 : std::max(0.0, number(path) - Number(*before_, path));
  }
  double Rate(Path path) const { return seconds_ > 0 ? Growth(path) / seconds_ : 0; }
  bool has_before() const { return before_ != nullptr; }

  // Of the reads that ended since `before`; of all, if none did.
  LatencyHistogram ReadTimes(bool* recent) const {
    LatencyHistogram all = Histogram(now_);
    *recent = false;
    if (before_ == nullptr) return all;
    const LatencyHistogram old = Histogram(*before_);
    LatencyHistogram grown;
    for (int i = 0; i < LatencyHistogram::kBuckets; ++i) {
      grown.counts[i] = all.counts[i] - std::min(all.counts[i], old.counts[i]);
    }
    *recent = grown.count() > 0;
    return *recent ? grown : all;
  }

 private:
  static LatencyHistogram Histogram(const Json& model) {
    LatencyHistogram histogram;
    const Json& buckets = At(model, {"experts", "demand_read_seconds", "buckets"});
    if (!buckets.is_array()) return histogram;
    for (const Json& bucket : buckets) {
      const Json& bound = At(bucket, {"le"});
      const int i = bound.is_number() ? LatencyHistogram::BucketOf(bound.get<double>())
                                      : LatencyHistogram::kBuckets - 1;
      histogram.counts[i] +=
          static_cast<uint64_t>(std::clamp(Number(bucket, {"count"}), 0.0, 1e15));
    }
    return histogram;
  }

  const Json* const before_;
  const Json& now_;
  const double seconds_;
};

// Lines of a frame.
class Frame {
 public:
  explicit Frame(const FrameOptions& options)
      : options_(options), width_(std::max(options.width, kLeastWidth)) {}

  int room() const { return width_ - kIndent; }
  bool utf8() const { return options_.utf8; }

  void Title(std::string text) {
    if (static_cast<int>(text.size()) > width_) text.resize(width_);
    text_ += Colored(kBold, text) + "\n";
  }

  // A name and what is said of it, broken between items.
  void Row(const std::string& name, const std::vector<std::string>& items) {
    std::string line = fmt::format("  {:<{}}", name, kIndent - 2);
    bool first = true;
    for (const std::string& item : items) {
      if (item.empty()) continue;
      if (!first && static_cast<int>(line.size() + 3 + item.size()) > width_) {
        Cut(&line);
        line = std::string(kIndent, ' ');
        first = true;
      }
      line += (first ? "" : "   ") + item;
      first = false;
    }
    Cut(&line);
  }

  // A row of `cells`, one column each, broken at the width.
  void Cells(const std::string& name, const std::vector<std::string>& cells) {
    std::string line = fmt::format("  {:<{}}", name, kIndent - 2);
    for (size_t i = 0; i < cells.size(); ++i) {
      if (i > 0 && i % room() == 0) {
        text_ += line + "\n";
        line = std::string(kIndent, ' ');
      }
      line += cells[i];
    }
    text_ += line + "\n";
  }

  std::string Colored(const char* color, const std::string& text) const {
    return options_.color ? color + text + kReset : text;
  }

  std::string Take() { return std::move(text_); }

 private:
  void Cut(std::string* line) {
    if (static_cast<int>(line->size()) > width_) line->resize(width_);
    text_ += *line + "\n";
  }

  const FrameOptions options_;
  const int width_;
  std::string text_;
};

std::string PerSecond(const Model& model, double rate) {
  return model.has_before() ? fmt::format("{:.1f}/s", rate) : "-";
}

void ShowWork(const Model& model, Frame* frame) {
  frame->Row("tokens", {PerSecond(model, model.Rate({"generated_tokens"})) + " generated",
                        PerSecond(model, model.Rate({"prompt_tokens"})) + " prompt",
                        PerSecond(model, model.Rate({"steps"})) + " steps",
                        fmt::format("width {:.0f}", model.number({"decode", "width"}))});
  const double slices = model.number({"decode", "slices"});
  const double probes = model.number({"decode", "probes"});
  if (slices + probes == 0) return;
  frame->Row("turns",
             {fmt::format("{:.0f} slices", slices), fmt::format("{:.0f} probes", probes),
              "longest wait " + Seconds(model.number({"decode", "longest_wait_seconds"}))});
}

void ShowHits(const Model& model, Frame* frame) {
  const double hits = model.Growth({"experts", "hits"});
  const double all_hits = model.number({"experts", "hits"});
  const double errors = model.number({"experts", "read_errors"});
  const double retries = model.number({"experts", "read_retries"});
  frame->Row(
      "hits",
      {Percent(hits, hits + model.Growth({"experts", "misses"})) + " now",
       Percent(all_hits, all_hits + model.number({"experts", "misses"})) + " since start",
       "stall " +
           Percent(model.Growth({"experts", "stall_seconds"}), model.Growth({"step_seconds"})),
       errors + retries > 0 ? fmt::format("{:.0f} read errors, {:.0f} retries", errors, retries)
                            : ""});
}

std::string Queues(const Model& model, const char* read_class) {
  return fmt::format("{:.0f} reading, {:.0f} queued",
                     model.number({"experts", "reads", read_class, "in_flight"}),
                     model.number({"experts", "reads", read_class, "queued"}));
}

std::string ByteRate(const Model& model, const char* read_class) {
  if (!model.has_before()) return "-";
  return Bytes(model.Rate({"experts", "reads", read_class, "bytes"})) + "/s";
}

void ShowReads(const Model& model, Frame* frame) {
  bool recent = false;
  const LatencyHistogram times = model.ReadTimes(&recent);
  std::string quantiles;
  if (times.count() > 0) {
    quantiles = fmt::format("p50 {}, p99 {}{}", Seconds(times.Quantile(0.5)),
                            Seconds(times.Quantile(0.99)), recent ? "" : " since start");
  }
  frame->Row("demand", {ByteRate(model, "demand"), quantiles, Queues(model, "demand")});

  const Json& chance = model.at({"experts", "prefetch", "least_chance"});
  const double guessed = model.number({"experts", "reads", "speculative", "bytes"});
  const auto share = [&](const char* key) {
    return Percent(model.number({"experts", "reads", "speculative", key}), guessed);
  };
  std::vector<std::string> guesses = {
      chance.is_number() ? fmt::format("read from a chance of {:.2f}", chance.get<double>())
                         : "off"};
  if (chance.is_number() || guessed > 0) {
    guesses.insert(guesses.begin(),
                   {ByteRate(model, "speculative"),
                    share("useful_bytes") + " useful, " + share("wasted_bytes") + " wasted",
                    Queues(model, "speculative")});
  }
  frame->Row("guesses", guesses);
  if (model.number({"experts", "reads", "preload", "queued"}) > 0) {
    frame->Row("preload", {ByteRate(model, "preload"), Queues(model, "preload")});
  }
}

void ShowCache(const Model& model, Frame* frame) {
  const bool direct = model.at({"experts", "direct_io"}) == Json(true);
  const bool locked = model.at({"experts", "locked"}) == Json(true);
  frame->Row("cache", {Text(model.at({"experts", "policy"})),
                       Text(model.at({"experts", "reader"})) + (direct ? ", direct" : ", buffered"),
                       locked ? "locked" : "not locked",
                       Bytes(model.number({"experts", "resident_bytes"})) + " resident of " +
                           Bytes(model.number({"memory", "all_experts_bytes"}))});
  const Json& more = model.at({"experts", "more_memory"});
  if (more.is_string() && more != "") frame->Row("more", {Text(more)});
}

// How `budget` is divided, over the row's width.
void ShowMemory(const Model& model, Frame* frame) {
  struct Part {
    const char* key;
    const char* name;
    char letter;
    const char* color;
  };
  constexpr Part kParts[] = {{"weights_bytes", "weights", 'W', "\033[44m"},
                             {"work_space_bytes", "work space", 'S', "\033[45m"},
                             {"kv_bytes", "KV", 'K', "\033[43m"},
                             {"experts_bytes", "experts", 'E', "\033[42m"}};
  const double budget = std::max(1.0, model.number({"memory", "budget_bytes"}));
  const int room = frame->room();
  std::vector<std::string> cells, items;
  double sum = 0;
  for (const Part& part : kParts) {
    const double bytes = model.number({"memory", part.key});
    sum += bytes;
    const int end = static_cast<int>(std::lround(std::clamp(sum / budget, 0.0, 1.0) * room));
    while (static_cast<int>(cells.size()) < end) {
      cells.push_back(frame->Colored(part.color, std::string(1, part.letter)));
    }
    if (bytes > 0) items.push_back(fmt::format("{} {}", part.name, Bytes(bytes)));
  }
  cells.resize(room, ".");
  const double blocks = model.number({"kv_blocks", "total"});
  if (blocks > 0) {
    items.push_back("KV in use " + Percent(model.number({"kv_blocks", "used"}), blocks));
  }
  frame->Cells("memory", cells);
  frame->Row("", items);
}

// How much of each layer is resident, a column each.
void ShowLayers(const Model& model, Frame* frame) {
  const Json& layers = model.at({"experts", "layers"});
  if (!layers.is_array() || layers.empty()) return;
  std::vector<std::string> cells;
  for (const Json& layer : layers) {
    const double bytes = std::max(1.0, Number(layer, {"bytes"}));
    const double share = std::clamp(Number(layer, {"resident_bytes"}) / bytes, 0.0, 1.0);
    const std::string cell =
        frame->utf8() ? kHeatGlyphs[static_cast<size_t>(std::ceil(share * 8))]
                      : std::string(1, static_cast<char>('0' + static_cast<int>(share * 9)));
    const size_t heat =
        std::min<size_t>(static_cast<size_t>(share * kHeatColors.size()), kHeatColors.size() - 1);
    cells.push_back(frame->Colored(kHeatColors[heat], cell));
  }
  frame->Cells("layers", cells);
}

const Json* FindModel(const Json& answer, const Json& name) {
  const Json& models = At(answer, {"models"});
  if (!models.is_array()) return nullptr;
  for (const Json& model : models) {
    if (At(model, {"model"}) == name) return &model;
  }
  return nullptr;
}

}  // namespace

std::string Printable(std::string text) {
  for (char& c : text) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return text;
}

absl::StatusOr<Json> ParseCacheAnswer(std::string_view body) {
  Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!At(json, {"models"}).is_array()) {
    return absl::FailedPreconditionError("its /admin/cache is no list of models");
  }
  return json;
}

std::string RenderFrame(const Json& before, const Json& now, double seconds,
                        const FrameOptions& options) {
  Frame frame(options);
  for (const Json& entry : At(now, {"models"})) {
    const Model model(FindModel(before, At(entry, {"model"})), entry, seconds);
    frame.Title(fmt::format("{}   {:.0f} running, {:.0f} waiting, {:.0f} paused",
                            Text(model.at({"model"})), model.number({"running"}),
                            model.number({"waiting"}), model.number({"paused"})));
    ShowWork(model, &frame);
    const bool has_experts = model.at({"experts"}).is_object();
    if (has_experts) {
      ShowHits(model, &frame);
      ShowReads(model, &frame);
      ShowCache(model, &frame);
    }
    ShowMemory(model, &frame);
    if (has_experts) ShowLayers(model, &frame);
  }
  return frame.Take();
}

}  // namespace hostler
