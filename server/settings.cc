#include "server/settings.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "cache/policy.h"
#include "engine/base/bytes.h"
#include "engine/base/device_name.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace hostler {

std::string FlagName(std::string_view key) {
  std::string flag = fmt::format("--{}", key);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::function<absl::Status(const std::string&)> SetInt(int* to, int low, int high) {
  return [=](const std::string& text) -> absl::Status {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is not a whole number from {} to {}", text, low, high));
    }
    *to = value;
    return absl::OkStatus();
  };
}

std::function<absl::Status(const std::string&)> SetNumber(double* to, double low, double high) {
  return [=](const std::string& text) -> absl::Status {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() ||
        !(value >= low && value <= high)) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is not a number from {} to {}", text, low, high));
    }
    *to = value;
    return absl::OkStatus();
  };
}

std::function<absl::Status(const std::string&)> SetBytes(uint64_t* to) {
  return [=](const std::string& text) -> absl::Status {
    HOSTLER_ASSIGN_OR_RETURN(*to, ParseBytes(text));
    return absl::OkStatus();
  };
}

std::function<absl::Status(const std::string&)> SetBytes(std::optional<uint64_t>* to) {
  return [=](const std::string& text) -> absl::Status {
    HOSTLER_ASSIGN_OR_RETURN(to->emplace(), ParseBytes(text));
    return absl::OkStatus();
  };
}

std::function<absl::Status(const std::string&)> SetBool(bool* to) {
  return [=](const std::string& text) -> absl::Status {
    if (text != "true" && text != "false") {
      return absl::InvalidArgumentError(fmt::format("\"{}\" is neither true nor false", text));
    }
    *to = text == "true";
    return absl::OkStatus();
  };
}

std::function<absl::Status(const std::string&)> SetText(std::string* to) {
  return [=](const std::string& text) -> absl::Status {
    if (text.empty()) return absl::InvalidArgumentError("must not be empty");
    *to = text;
    return absl::OkStatus();
  };
}

std::function<absl::Status(const std::string&)> SetChoice(std::string* to,
                                                          std::vector<std::string> words) {
  return [to, words = std::move(words)](const std::string& text) -> absl::Status {
    if (std::find(words.begin(), words.end(), text) == words.end()) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is none of {}", text, fmt::join(words, ", ")));
    }
    *to = text;
    return absl::OkStatus();
  };
}

namespace {

template <typename T>
struct Choice {
  std::string word;
  T value;
};

// The value that a word stands for.
template <typename T>
std::function<absl::Status(const std::string&)> SetValue(T* to, std::vector<Choice<T>> choices) {
  return [to, choices = std::move(choices)](const std::string& text) -> absl::Status {
    std::vector<std::string> words;
    for (const Choice<T>& choice : choices) words.push_back(choice.word);
    std::string word;
    HOSTLER_RETURN_IF_ERROR(SetChoice(&word, std::move(words))(text));
    for (const Choice<T>& choice : choices) {
      if (choice.word == word) *to = choice.value;
    }
    return absl::OkStatus();
  };
}

std::function<absl::Status(const std::string&)> SetDevice(std::string* to) {
  return [to](const std::string& text) -> absl::Status {
    HOSTLER_RETURN_IF_ERROR(ParseDeviceName(text).status());
    *to = text;
    return absl::OkStatus();
  };
}

}  // namespace

std::vector<Setting> ModelSettings(EngineOptions* options) {
  const auto set_quantize =
      SetValue<Quantize>(&options->quantize, {{"none", Quantize::kNone}, {"q8", Quantize::kQ8}});
  const auto set_hybrid = SetValue<Hybrid>(
      &options->hybrid,
      {{"auto", Hybrid::kAuto}, {"off", Hybrid::kOff}, {"always", Hybrid::kAlways}});
  const auto set_kv_type = SetValue<KvType>(
      &options->kv_type, {{"f16", KvType::kF16}, {"bf16", KvType::kBF16}, {"q8", KvType::kQ8}});
  const auto set_prefetch =
      SetValue<Prefetch>(&options->expert_prefetch, {{"auto", Prefetch::kAuto},
                                                     {"gate", Prefetch::kGate},
                                                     {"transitions", Prefetch::kTransitions},
                                                     {"off", Prefetch::kOff}});
  const auto set_split = SetValue<bool>(&options->move_memory, {{"auto", true}, {"fixed", false}});
  const auto set_prefix = SetValue<bool>(&options->prefix_cache, {{"on", true}, {"off", false}});
  const auto set_preload = SetValue<bool>(&options->expert_preload, {{"on", true}, {"off", false}});
  using Method = ReaderOptions::Method;
  const auto set_io = SetValue<Method>(
      &options->expert_io,
      {{"auto", Method::kAuto}, {"uring", Method::kUring}, {"pread", Method::kPread}});
  const auto set_direct = SetValue<DirectIo>(
      &options->expert_direct_io,
      {{"auto", DirectIo::kAuto}, {"on", DirectIo::kOn}, {"off", DirectIo::kOff}});
  std::vector<std::string> policies = {"default"};
  policies.insert(policies.end(), EvictionPolicyNames().begin(), EvictionPolicyNames().end());
  const EngineOptions defaults;
  constexpr int kMax = std::numeric_limits<int>::max();
  return {
      {"memory", "SIZE",
       "Memory for weights, KV, experts and work space together (default: 80% of what there is)",
       "", SetBytes(&options->memory_bytes)},
      {"device", "cpu|cuda|cuda:N|auto",
       "What computes: the CPU, a GPU, or auto: the GPU with the most memory free if the model can "
       "be served there, else the CPU",
       defaults.device, SetDevice(&options->device)},
      {"device_memory", "SIZE",
       "On a GPU: its memory for weights, KV, experts and work space together; `memory` is then "
       "what lies on the host (default: 90% of what is free)",
       "", SetBytes(&options->device_memory_bytes)},
      {"host_expert_memory", "SIZE",
       "With a GPU: the host's memory for experts beneath those there (default: what is left of "
       "`memory`, at most all)",
       "", SetBytes(&options->host_expert_memory_bytes)},
      {"hybrid", "auto|off|always",
       "With a GPU: the CPU computes experts that are not in its memory, where that should be "
       "quicker than copying them (auto); the answers are the same",
       "auto", set_hybrid},
      {"expert_memory", "SIZE", "Memory for expert slots (default: what is left, at most all)", "",
       SetBytes(&options->expert_memory_bytes)},
      {"expert_prefetch", "auto|gate|transitions|off",
       "Read experts before they are asked for: guessed from the next layer's gate, while it pays "
       "(auto) or always, or from what followed before",
       "auto", set_prefetch},
      {"expert_policy", "default|" + fmt::format("{}", fmt::join(EvictionPolicyNames(), "|")),
       "Which expert leaves when one comes in", defaults.expert_policy,
       SetChoice(&options->expert_policy, policies)},
      {"expert_pins", "FILE",
       "Experts that stay in memory, a line each: a layer and an expert, or first-last", "",
       SetText(&options->expert_pins)},
      {"expert_popularity", "FILE|auto|off",
       "Where to keep which experts are used most, to start with them the next time; auto: in a "
       "packed store",
       options->expert_popularity, SetText(&options->expert_popularity)},
      {"expert_preload", "on|off",
       "Where there is room for all experts, read them in the background at the start",
       options->expert_preload ? "on" : "off", set_preload},
      {"expert_trace", "FILE",
       "Record which experts the gates choose, for hostler replay and analyze; an existing file is "
       "replaced",
       "", SetText(&options->expert_trace)},
      {"expert_trace_size", "SIZE", "Where recording ends",
       fmt::format("{}MiB", defaults.expert_trace_bytes >> 20),
       SetBytes(&options->expert_trace_bytes)},
      {"expert_io", "auto|uring|pread", "How experts are read; auto: io_uring where there is one",
       "auto", set_io},
      {"expert_direct_io", "auto|on|off",
       "Read experts past the page cache (O_DIRECT); auto: where the file system can", "auto",
       set_direct},
      {"kv_memory", "SIZE", "Memory for KV blocks (default: chosen from what is left)", "",
       SetBytes(&options->kv_memory_bytes)},
      {"kv_type", "f16|bf16|q8", "What keys and values are kept in; q8: 8 bits, half of the memory",
       "f16", set_kv_type},
      {"memory_split", "auto|fixed",
       "Move memory between KV and experts while serving, unless one of them is given", "auto",
       set_split},
      {"prefix_cache", "on|off",
       "Keep the KV of what was computed, for requests that begin with the same tokens", "on",
       set_prefix},
      {"threads", "N", "Threads that compute (default: the cores there are)", "",
       SetInt(&options->threads, 0, 1024)},
      {"quantize", "none|q8", "Convert weights when loading", "none", set_quantize},
      {"kernels", "auto|amx|avx512vnni|avx512|avx2|portable",
       "Kernels to compute with; auto: the best that this CPU has", "auto",
       SetChoice(&options->kernels, {"auto", "amx", "avx512vnni", "avx512", "avx2", "portable"})},
      {"precise", "", "f32 activations and KV, for comparisons", "", SetBool(&options->precise)},
      {"chat_template", "FILE", "Jinja template to chat by (default: the model's own)", "",
       SetText(&options->chat_template)},
      {"max_context", "TOKENS", "Longest sequence (default: the model's)", "",
       SetInt(&options->max_context, 0, kMax)},
  };
}

std::vector<Setting> SchedulingSettings(EngineOptions* options) {
  const EngineOptions defaults;
  return {
      {"max_sequences", "N", "Sequences running at a time, per model",
       std::to_string(defaults.max_sequences), SetInt(&options->max_sequences, 1, 65536)},
      {"step_tokens", "N", "Rows of one step at most", std::to_string(defaults.step_tokens),
       SetInt(&options->step_tokens, 1, 1 << 20)},
      {"decode_width", "N",
       "Sequences that generate in one step; 0: chosen by measurement, all where no expert is read",
       std::to_string(defaults.decode_width), SetInt(&options->decode_width, 0, 65536)},
      {"max_decode_wait_ms", "MS",
       "Longest wait of a running sequence for others' turns, where taking turns is faster",
       std::to_string(defaults.max_decode_wait_ms),
       SetInt(&options->max_decode_wait_ms, 1, 3600 * 1000)},
      {"decode_gap_ms", "MS",
       "Aimed at between two tokens while prompts come in, which are cut accordingly; 0: not cut",
       std::to_string(defaults.decode_gap_ms), SetInt(&options->decode_gap_ms, 0, 3600 * 1000)},
      {"max_queue", "N", "Sequences waiting, per model; more are refused",
       std::to_string(defaults.max_queue), SetInt(&options->max_queue, 0, 1 << 24)},
  };
}

}  // namespace hostler
