// hostler plan: what a model will need and how fast it will be, from its headers
// and a machine profile.

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/engine/device.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "server/commands/plan_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/plan/prediction.h"

namespace hostler {
namespace {

struct PlanFlags {
  ModelFlags model;
  std::string trace, profile;
  std::string gpu;  // numbers of one that need not be here; "": none
  int clients = 8;
  int prompt_tokens = 512;
  bool json = false;
};

struct MoreMemory {
  uint64_t bytes = 0;
  bool usable = true;         // this machine has as much
  double resident_share = 0;  // where it is computed
  DecodePrediction decode;
};

// Everything that is told.
struct Plan {
  PlannedModel model;
  ModelWork work;
  MachineProfile machine;  // as what computes sees it
  std::string gpu;         // its name; "": the CPU computes
  std::optional<ExpertTrace> trace;
  ResidentShares resident;
  int context = 0;
  int most_sequences = 1;                 // that decode together
  std::vector<DecodePrediction> decode;   // 1, 2, 4, ... clients
  std::vector<DecodePrediction> typical;  // one client at the lowest and highest rate
  StepPrediction prompt;
  std::vector<MoreMemory> more;
};

// For steps of 1, 2, 4, ... and `most` sequences; nothing in between.
std::vector<HitRate> Rates(const Plan& plan, const ResidentShares& resident, int most) {
  std::vector<HitRate> rates(most);
  for (int rows = 1; rows <= most; rows = rows == most ? rows + 1 : std::min(2 * rows, most)) {
    const bool uniform = resident.computing >= 1 || !plan.trace.has_value();
    rates[rows - 1] = uniform ? UniformHitRate(plan.work, rows, resident)
                              : TraceHitRate(*plan.trace, rows, resident.computing);
    rates[rows - 1].host_hits = resident.host;
  }
  return rates;
}

int64_t DecodeTokens(const ExpertTrace& trace) {
  return std::count_if(trace.lines.begin(), trace.lines.end(),
                       [](const TraceLine& line) { return line.decode && line.layer == 0; });
}

absl::Status ReadPlanTrace(const std::string& path, Plan* plan) {
  HOSTLER_ASSIGN_OR_RETURN(plan->trace, ReadExpertTrace(path));
  const TraceHeader& header = plan->trace->header;
  const ModelInfo& info = plan->model.sketch.info;
  if (header.layers != info.moe_layers || header.experts != info.experts ||
      header.topk != info.experts_per_token) {
    return absl::InvalidArgumentError(fmt::format(
        "{} is of {} layers of {} experts, {} for a token; the model has {} of {}, {} for a token",
        path, header.layers, header.experts, header.topk, info.moe_layers, info.experts,
        info.experts_per_token));
  }
  if (DecodeTokens(*plan->trace) == 0) {
    return absl::InvalidArgumentError(fmt::format("{}: the trace has no decode tokens", path));
  }
  return absl::OkStatus();
}

// Clients beyond what the trace has tokens for would replay nothing.
int MostClients(const PlanFlags& flags, const Plan& plan) {
  if (!plan.trace.has_value()) return flags.clients;
  return static_cast<int>(std::clamp<int64_t>(DecodeTokens(*plan.trace) / 2, 1, flags.clients));
}

// Budgets that hold more of the experts than the one before.
absl::Status PredictMore(Plan* plan) {
  if (plan->model.options.expert_memory_bytes > 0) return absl::OkStatus();
  double held = plan->resident.computing;
  for (const double factor : {1.25, 1.5, 2.0, 3.0, 4.0, 8.0}) {
    if (held >= 1) break;
    EngineOptions options = plan->model.options;
    const auto bytes = static_cast<uint64_t>(plan->model.memory.plan.budget * factor);
    std::optional<DeviceMemory> device = plan->model.device;
    uint64_t usable = UsableMemoryBytes();
    if (device.has_value()) {
      usable = device->free;
      options.device_memory_bytes = bytes;
      device->free = std::max(device->free, bytes);
    } else {
      options.memory_bytes = bytes;
    }
    HOSTLER_ASSIGN_OR_RETURN(
        const DividedMemory memory,
        DivideMemory(plan->model.needs, options, plan->model.sketch.info.max_positions, device));
    const ResidentShares resident = SharesOf(memory.plan);
    if (resident.computing <= held) continue;
    held = resident.computing;
    plan->more.push_back(
        {bytes, bytes <= usable, held,
         PredictClients(plan->work, plan->machine, 1, plan->context, Rates(*plan, resident, 1))});
  }
  return absl::OkStatus();
}

// A model on a GPU of such numbers; what its work space would take is the emulation's word
// where this build has it, else the CPU's.
absl::Status DivideOnNumbers(const PlanFlags& flags, Plan* plan) {
  auto gpu = ParseGpuNumbers(flags.gpu);
  if (!gpu.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("--gpu: {}", std::string(gpu.status().message())));
  }
  EngineOptions options = flags.model.options;
  options.device = "cuda";
  EngineOptions sketched = options;
  sketched.device = CheckDevice("cuda-emulated").ok() ? "cuda-emulated" : "cpu";
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, NewBackend(sketched));
  HOSTLER_ASSIGN_OR_RETURN(plan->model,
                           PlanModelOn(flags.model.path, options, std::move(backend),
                                       DeviceMemory{gpu->memory_bytes, gpu->memory_bytes}));
  plan->gpu = flags.gpu;
  plan->machine = OnGpu(plan->machine, *gpu);
  return absl::OkStatus();
}

// Divides the model's memory, and makes the machine what the device sees.
absl::Status DivideOnDevice(const PlanFlags& flags, Plan* plan) {
  if (!flags.gpu.empty()) return DivideOnNumbers(flags, plan);
  EngineOptions options = flags.model.options;
  HOSTLER_ASSIGN_OR_RETURN(DeviceChoice choice, ChooseDevice(flags.model.path, options));
  options.device = std::move(choice.device);
  HOSTLER_ASSIGN_OR_RETURN(plan->model, PlanModel(flags.model.path, options));
  HOSTLER_ASSIGN_OR_RETURN(const std::optional<Gpu> gpu, FindGpu(options.device));
  if (!gpu.has_value()) return absl::OkStatus();
  const std::vector<MachineProfile::GpuProfile>& gpus = plan->machine.gpus;
  const auto index = static_cast<size_t>(gpu->index);
  if (index >= gpus.size() || gpus[index].name != gpu->name) {
    return absl::FailedPreconditionError(
        fmt::format("the machine profile does not know {} ({}): measure again with `hostler doctor "
                    "--profile`, or give its numbers with --gpu",
                    options.device, gpu->name));
  }
  plan->gpu = gpu->name;
  const MachineProfile seen = OnGpu(plan->machine, gpus[index]);
  plan->machine = seen;
  return absl::OkStatus();
}

absl::StatusOr<Plan> MakePlan(const PlanFlags& flags) {
  Plan plan;
  HOSTLER_ASSIGN_OR_RETURN(
      plan.machine,
      ReadMachineProfile(flags.profile.empty() ? DefaultProfilePath() : flags.profile));
  HOSTLER_RETURN_IF_ERROR(DivideOnDevice(flags, &plan));
  if (!flags.trace.empty()) HOSTLER_RETURN_IF_ERROR(ReadPlanTrace(flags.trace, &plan));
  plan.work = WorkOf(plan.model);
  plan.resident = SharesOf(plan.model.memory.plan);
  if (std::max(plan.resident.computing, plan.resident.host) < 1 && plan.machine.disk.empty()) {
    return absl::FailedPreconditionError(
        "not all experts fit in memory, and the machine profile does not say how fast they are "
        "read: measure again with `hostler doctor --profile --disk PATH`");
  }
  plan.context = std::min(flags.prompt_tokens, plan.model.memory.max_context);
  const int most = MostClients(flags, plan);
  plan.most_sequences = MostSequences(plan.model, plan.context);
  const std::vector<HitRate> rates =
      Rates(plan, plan.resident, std::min(most, plan.most_sequences));
  for (int clients = 1; clients <= most; clients *= 2) {
    plan.decode.push_back(PredictClients(plan.work, plan.machine, clients, plan.context, rates));
  }
  if (!plan.trace.has_value() && plan.resident.computing < 1) {
    const HitRateRange range = TypicalHitRate(plan.resident.computing);
    for (const double hits : {range.low, range.high}) {
      HitRate rate = rates.front();
      rate.hits = hits;
      plan.typical.push_back(PredictClients(plan.work, plan.machine, 1, plan.context, {rate}));
    }
  }
  plan.prompt = PredictPrompt(plan.work, plan.machine, plan.context, plan.resident);
  HOSTLER_RETURN_IF_ERROR(PredictMore(&plan));
  return plan;
}

std::vector<std::string> Assumptions(const Plan& plan) {
  const MachineProfile& machine = plan.machine;
  std::vector<std::string> list = {
      fmt::format("the machine is as the profile says: {}, {} threads, {}", machine.backend,
                  machine.threads, machine.disk_path),
      "nothing else uses the disk or the cores",
      fmt::format("sequences are {} tokens long; KV and max_sequences hold {} of them",
                  plan.context, plan.most_sequences)};
  if (!plan.gpu.empty()) {
    list[0] = fmt::format("the GPU is {}: {:.0f} GB/s of its own memory, {:.1f} GB/s to it",
                          plan.gpu, machine.memory_bytes_s * 1e-9, machine.link_bytes_s * 1e-9);
  }
  if (plan.resident.computing >= 1) return list;
  list.push_back(plan.trace.has_value()
                     ? "the gates choose as in the trace; several clients as its stretches side by "
                       "side; first uses left out"
                     : "every expert is as likely, so hits are what is resident: --trace knows "
                       "better (hostler trace records one)");
  if (plan.gpu.empty()) {
    list.push_back("of computing and reading the longer counts, and 0.4 of the shorter");
  } else {
    list.push_back("the longest of computing, the link and the disk counts: they overlap");
    list.push_back("what is missed is in the host's memory as often as any expert");
  }
  list.push_back("a prompt's gates choose every expert as likely");
  return list;
}

nlohmann::ordered_json ToJson(const StepPrediction& step) {
  return {{"limit", step.limit()},           {"compute_seconds", step.compute_s},
          {"memory_seconds", step.memory_s}, {"link_seconds", step.link_s},
          {"disk_seconds", step.disk_s},     {"missed_bytes", step.missed_bytes}};
}

nlohmann::ordered_json ToJson(const DecodePrediction& decode) {
  nlohmann::ordered_json json = {{"clients", decode.clients},
                                 {"width", decode.width},
                                 {"tokens_per_second", decode.tokens_per_s},
                                 {"hit_rate", decode.rate.hits}};
  json.update(ToJson(decode.step));
  return json;
}

nlohmann::ordered_json ToJson(const Plan& plan) {
  const MemoryPlan& memory = plan.model.memory.plan;
  nlohmann::ordered_json json = {{"model", plan.model.sketch.info.path},
                                 {"memory",
                                  {{"budget", memory.budget},
                                   {"weights", memory.weights},
                                   {"work_space", memory.work_space},
                                   {"kv", memory.kv},
                                   {"experts", memory.experts},
                                   {"all_experts", memory.all_experts},
                                   {"max_context", plan.model.memory.max_context}}},
                                 {"resident_share", plan.resident.computing},
                                 {"most_sequences", plan.most_sequences},
                                 {"hit_rate_from", plan.trace.has_value() ? "trace" : "uniform"}};
  if (!plan.gpu.empty()) {
    json["gpu"] = {{"name", plan.gpu},
                   {"memory_bytes_per_second", plan.machine.memory_bytes_s},
                   {"link_bytes_per_second", plan.machine.link_bytes_s}};
    json["memory"]["host"] = {{"budget", memory.host_budget},
                              {"work_space", memory.host_work_space},
                              {"experts", memory.host_experts}};
  }
  for (const DecodePrediction& decode : plan.decode) json["decode"].push_back(ToJson(decode));
  for (const DecodePrediction& decode : plan.typical) json["typical"].push_back(ToJson(decode));
  json["prefill"] = {{"prompt_tokens", plan.context},
                     {"tokens_per_second", plan.context / plan.prompt.seconds}};
  json["prefill"].update(ToJson(plan.prompt));
  json["more_memory"] = nlohmann::ordered_json::array();
  for (const MoreMemory& more : plan.more) {
    json["more_memory"].push_back({{"memory", more.bytes},
                                   {"usable", more.usable},
                                   {"resident_share", more.resident_share},
                                   {"hit_rate", more.decode.rate.hits},
                                   {"tokens_per_second", more.decode.tokens_per_s}});
  }
  json["assumptions"] = Assumptions(plan);
  return json;
}

void Print(const Plan& plan) {
  const ModelInfo& info = plan.model.sketch.info;
  fmt::print("model     {}: {}, {}\n", info.path, info.architecture, info.weight_type);
  if (!plan.gpu.empty()) fmt::print("gpu       {}\n", plan.gpu);
  fmt::print("memory    {}\n", plan.model.memory.plan.ToString());
  fmt::print("context   {} tokens at most\n\n", plan.model.memory.max_context);
  fmt::print("decode    clients  tokens/s  in a step  hits    limit    read a token\n");
  for (const DecodePrediction& decode : plan.decode) {
    fmt::print("          {:>7}  {:>8.1f}  {:>9}  {:>4.0f}%   {:<7}  {}\n", decode.clients,
               decode.tokens_per_s, decode.width, 100 * decode.rate.hits, decode.step.limit(),
               FormatBytes(static_cast<uint64_t>(decode.step.missed_bytes / decode.width)));
  }
  if (!plan.typical.empty()) {
    const DecodePrediction &low = plan.typical.front(), &high = plan.typical.back();
    fmt::print(
        "          {:.1f} to {:.1f} tokens/s for one client if the gates are like those of public "
        "models ({:.0f} to {:.0f}% hits)\n",
        low.tokens_per_s, high.tokens_per_s, 100 * low.rate.hits, 100 * high.rate.hits);
  }
  fmt::print("prefill   {:.1f} tokens/s for a prompt of {} tokens, limit {}\n\n",
             plan.context / plan.prompt.seconds, plan.context, plan.prompt.limit());
  for (const MoreMemory& more : plan.more) {
    fmt::print(
        "with {:<9} {:.0f}% of the experts, {:.0f}% hits, {:.1f} tokens/s for one client{}\n",
        FormatBytes(more.bytes) + ":", 100 * more.resident_share, 100 * more.decode.rate.hits,
        more.decode.tokens_per_s, more.usable ? "" : " (more than may be used here)");
  }
  if (plan.resident.computing >= 1 && info.moe_layers > 0) {
    fmt::print("all experts fit: more memory makes nothing faster\n");
  } else if (plan.model.options.expert_memory_bytes > 0) {
    fmt::print("--expert-memory is fixed: a larger budget holds no more experts\n");
  }
  fmt::print("\nassumed:\n");
  for (const std::string& line : Assumptions(plan)) fmt::print("- {}\n", line);
}

int RunPlan(const PlanFlags& flags) {
  const absl::StatusOr<Plan> plan = MakePlan(flags);
  if (!plan.ok()) return FailRunning(plan.status());
  if (flags.json) {
    fmt::print("{}\n", DumpLine(ToJson(*plan)));
  } else {
    Print(*plan);
  }
  return FinishStdout();
}

}  // namespace

void AddPlanCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app->add_subcommand(
      "plan",
      "Predict what a model needs and how fast it will be here, without loading it.\n"
      "Needs a machine profile (hostler doctor --profile)");
  AddModelFlags(command, &flags->model);
  command->add_option("--trace", flags->trace, "An expert trace of this model: its hit rates")
      ->type_name("TRACE");
  command->add_option("--profile", flags->profile, "The machine profile. Default: doctor's")
      ->type_name("FILE");
  command
      ->add_option(
          "--gpu", flags->gpu,
          "On a GPU that need not be here: its memory, how fast that is, the link's speed, "
          "and what it computes (may be left out), as in "
          "24GiB,1008GB/s,25GB/s,165TFLOPS")
      ->type_name("NUMBERS");
  command->add_option("--clients", flags->clients, "Predict decoding of 1, 2, 4, ... up to so many")
      ->check(CLI::Range(1, 256).description(""))
      ->capture_default_str();
  command->add_option("--prompt", flags->prompt_tokens, "Tokens of a prompt")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer(
      "Examples:\n"
      "  hostler plan models/sample-moe --memory 48MiB\n"
      "  hostler plan qwen.gguf --memory 8GiB --trace qwen.csv --clients 4\n"
      "  hostler plan qwen.gguf --gpu 24GiB,1008GB/s,25GB/s,165TFLOPS --memory 48GiB");
  command->callback([flags, run] { *run = [flags] { return RunPlan(*flags); }; });
}

}  // namespace hostler
