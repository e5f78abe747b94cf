// What bench/gpu.py measures with: a device's copies, and a model served on it by the
// engine. Prints one JSON object. Needs neither server nor benchmark libraries.
//
//   gpu_bench device DEVICE SECONDS
//   gpu_bench serve KEY=VALUE...   (Options)

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/base/status.h"
#include "engine/engine/device.h"
#include "engine/engine/engine.h"
#include "engine/engine/model_needs.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double Seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

Json ToJson(const Gpu& gpu) {
  return {{"name", gpu.name},
          {"capability", gpu.Capability()},
          {"multiprocessors", gpu.multiprocessors},
          {"clock_hz", gpu.clock_hz},
          {"memory_bytes", gpu.memory_bytes},
          {"free_bytes", gpu.free_bytes},
          {"memory_bytes_per_second", gpu.memory_bytes_s},
          {"driver", CudaVersion(gpu.driver)},
          {"runtime", CudaVersion(gpu.runtime)},
          {"emulated", gpu.emulated}};
}

absl::StatusOr<Json> MeasureTheDevice(const std::string& device, double seconds) {
  HOSTLER_ASSIGN_OR_RETURN(const std::optional<Gpu> gpu, FindGpu(device));
  if (!gpu.has_value()) return absl::InvalidArgumentError("the CPU is no GPU");
  HOSTLER_ASSIGN_OR_RETURN(const GpuSpeed speed, MeasureDevice(device, seconds));
  return Json{{"gpu", ToJson(*gpu)},
              {"hybrid", true},
              {"memory_bytes_per_second", speed.memory_bytes_s},
              {"to_device_bytes_per_second", speed.to_device_bytes_s},
              {"to_host_bytes_per_second", speed.to_host_bytes_s}};
}

struct Options {
  std::string model, device = "cuda";
  double expert_percent = 100;  // of all experts, on the device; 0: of one step of a token
  int clients = 1, decode_tokens = 64, warm_tokens = 64;
  int prompt_tokens = 0;  // of the prompt whose prefill is measured; 0: none
  EngineOptions engine;
};

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  const std::map<std::string_view, std::function<void(const std::string&)>> keys = {
      {"model", [&](const std::string& v) { options.model = v; }},
      {"device", [&](const std::string& v) { options.device = v; }},
      {"expert_percent", [&](const std::string& v) { options.expert_percent = std::stod(v); }},
      {"clients", [&](const std::string& v) { options.clients = std::stoi(v); }},
      {"decode_tokens", [&](const std::string& v) { options.decode_tokens = std::stoi(v); }},
      {"warm_tokens", [&](const std::string& v) { options.warm_tokens = std::stoi(v); }},
      {"prompt_tokens", [&](const std::string& v) { options.prompt_tokens = std::stoi(v); }},
      {"memory", [&](const std::string& v) { options.engine.memory_bytes = std::stoull(v); }},
      {"hybrid",
       [&](const std::string& v) {
         options.engine.hybrid = v == "off"      ? Hybrid::kOff
                                 : v == "always" ? Hybrid::kAlways
                                                 : Hybrid::kAuto;
       }},
      {"threads", [&](const std::string& v) { options.engine.threads = std::stoi(v); }},
  };
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    const auto key = keys.find(std::string_view(argument).substr(0, equals));
    if (equals == std::string::npos || key == keys.end()) {
      return absl::InvalidArgumentError(fmt::format("\"{}\" is no option", argument));
    }
    key->second(argument.substr(equals + 1));
  }
  if (options.model.empty()) return absl::InvalidArgumentError("there is no model=");
  options.engine.device = options.device;
  options.engine.prefix_cache = false;  // what is measured is computed
  options.engine.max_context = options.prompt_tokens + options.warm_tokens + 512;
  options.engine.max_sequences = options.clients;
  return options;
}

GenerateRequest Request(int seed, int prompt_tokens, int tokens, int vocab) {
  TokenPrompt prompt;
  uint32_t state = static_cast<uint32_t>(seed) * 2654435761u + 1;
  for (int i = 0; i < prompt_tokens; ++i) {
    state = state * 1664525u + 1013904223u;
    prompt.push_back(static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(vocab)));
  }
  GenerateRequest request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = tokens;
  request.ignore_eos = true;
  return request;
}

// What happened between two moments.
struct Span {
  double seconds = 0;
  int tokens = 0;
  EngineStats before, after;

  Json ToJson(uint64_t slot_bytes) const {
    const ExpertCacheStats &from = before.experts, &to = after.experts;
    return {{"seconds", seconds},
            {"tokens", tokens},
            {"tokens_per_second", tokens / seconds},
            {"steps", after.steps - before.steps},
            {"hits", to.hits - from.hits},
            {"misses", to.misses - from.misses},
            {"missed_bytes", (to.misses - from.misses) * slot_bytes},
            {"copied_bytes", to.copied_bytes - from.copied_bytes},
            {"host_experts", to.host_experts - from.host_experts},
            {"read_bytes", to.read_bytes - from.read_bytes},
            {"stall_seconds", to.stall_seconds - from.stall_seconds}};
  }
};

// Requests of `tokens` tokens from all clients at once; decoding is measured from when the
// last of them has its first token.
absl::StatusOr<Span> Decode(Engine& engine, int clients, int tokens, int seed) {
  constexpr int kPromptTokens = 16;
  std::vector<std::shared_ptr<GenerateStream>> streams;
  for (int i = 0; i < clients; ++i) {
    HOSTLER_ASSIGN_OR_RETURN(
        streams.emplace_back(),
        engine.Submit(Request(seed + i, kPromptTokens, tokens, engine.model().vocab)));
  }
  Span span;
  std::vector<int> received(clients);
  const auto receive = [&](int i) {
    const std::optional<GenerateEvent> event = streams[i]->Pop();
    if (event.has_value()) received[i] += static_cast<int>(event->token_ids.size());
    return event.has_value();
  };
  for (int i = 0; i < clients; ++i) {
    while (received[i] == 0 && receive(i)) {
    }
  }
  // Those that had their first token before the last one did have more in their streams.
  span.before = engine.stats();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < clients; ++i) {
    while (receive(i)) {
    }
    HOSTLER_RETURN_IF_ERROR(streams[i]->status());
  }
  span.seconds = Seconds(Clock::now() - start);
  span.after = engine.stats();
  span.tokens = static_cast<int>(span.after.generated_tokens - span.before.generated_tokens);
  return span;
}

absl::StatusOr<Span> Prefill(Engine& engine, int prompt_tokens, int seed) {
  Span span;
  span.tokens = prompt_tokens;
  span.before = engine.stats();
  const Clock::time_point start = Clock::now();
  HOSTLER_ASSIGN_OR_RETURN(const auto stream,
                           engine.Submit(Request(seed, prompt_tokens, 1, engine.model().vocab)));
  while (stream->Pop().has_value()) {
  }
  HOSTLER_RETURN_IF_ERROR(stream->status());
  span.seconds = Seconds(Clock::now() - start);
  span.after = engine.stats();
  return span;
}

// What a step of one row reads of the device's memory, and multiplies.
Json WorkJson(const PlannedModel& planned) {
  const ModelInfo& info = planned.sketch.info;
  uint64_t dense_bytes = 0, macs = 0;
  for (const auto& [type, of_type] : planned.sketch.decoder.dense_macs) {
    dense_bytes += RowBytes(type, static_cast<int64_t>(of_type));
    macs += of_type;
  }
  const std::vector<ExpertLayout>& experts = planned.sketch.decoder.experts;
  if (!experts.empty()) {
    macs += uint64_t(experts.size()) * info.experts_per_token * 3 * experts[0].dim * experts[0].ffn;
  }
  return {{"dense_bytes", dense_bytes},
          {"macs_of_row", macs},
          {"moe_layers", info.moe_layers},
          {"experts", info.experts},
          {"experts_per_token", info.experts_per_token},
          {"slot_bytes", planned.memory.plan.slot}};
}

absl::StatusOr<Json> Serve(Options options) {
  HOSTLER_ASSIGN_OR_RETURN(const PlannedModel planned, PlanModel(options.model, options.engine));
  const MemoryPlan& plan = planned.memory.plan;
  const uint64_t of_token =
      plan.slot * uint64_t(std::max(planned.sketch.info.experts_per_token, 1)) * options.clients;
  const auto percent =
      static_cast<uint64_t>(static_cast<double>(plan.all_experts) * options.expert_percent / 100);
  options.engine.expert_memory_bytes = options.expert_percent == 0 ? of_token : percent;
  const Clock::time_point start = Clock::now();
  HOSTLER_ASSIGN_OR_RETURN(const auto engine, Engine::Load(options.model, options.engine));
  Json json = {{"load_seconds", Seconds(Clock::now() - start)},
               {"memory", engine->memory().ToString()},
               {"work", WorkJson(planned)},
               {"clients", options.clients}};
  if (options.warm_tokens > 0) {
    HOSTLER_RETURN_IF_ERROR(Decode(*engine, options.clients, options.warm_tokens, 1).status());
  }
  HOSTLER_ASSIGN_OR_RETURN(const Span decode,
                           Decode(*engine, options.clients, options.decode_tokens, 1000));
  json["decode"] = decode.ToJson(plan.slot);
  if (options.prompt_tokens > 0) {
    HOSTLER_RETURN_IF_ERROR(Prefill(*engine, options.prompt_tokens, 2000).status());
    HOSTLER_ASSIGN_OR_RETURN(const Span prefill, Prefill(*engine, options.prompt_tokens, 3000));
    json["prefill"] = prefill.ToJson(plan.slot);
  }
  return json;
}

absl::StatusOr<Json> Run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 3 && arguments[0] == "device") {
    return MeasureTheDevice(arguments[1], std::stod(arguments[2]));
  }
  if (!arguments.empty() && arguments[0] == "serve") {
    HOSTLER_ASSIGN_OR_RETURN(Options options,
                             ParseOptions({arguments.begin() + 1, arguments.end()}));
    return Serve(std::move(options));
  }
  return absl::InvalidArgumentError("gpu_bench device DEVICE SECONDS | serve KEY=VALUE...");
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) {
  const auto result = hostler::Run({argv + 1, argv + argc});
  if (!result.ok()) {
    fmt::print(stderr, "gpu_bench: {}\n", std::string(result.status().message()));
    return 1;
  }
  fmt::print("{}\n", result->dump(1));
  return 0;
}
