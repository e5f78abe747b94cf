#include "engine/engine/memory_plan.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// Without a context asked for, a sequence of this many tokens must fit.
constexpr int kLeastContext = 2048;
// KV beyond this for each sequence is given only when asked for.
constexpr int kUsualContext = 4096;

absl::Status DoesNotFit(const MemoryPlan& plan, uint64_t kv_least, uint64_t experts_least,
                        uint64_t pinned) {
  return absl::ResourceExhaustedError(fmt::format(
      "the model does not fit the {} of {}: weights {} + work space {} + KV at least {} "
      "+ experts at least {}{} = {}",
      plan.device.empty() ? "memory budget" : "device_memory", FormatBytes(plan.budget),
      FormatBytes(plan.weights), FormatBytes(plan.work_space), FormatBytes(kv_least),
      FormatBytes(experts_least),
      pinned > 0 ? fmt::format(" ({} of them pinned)", FormatBytes(pinned)) : "",
      FormatBytes(plan.weights + plan.work_space + kv_least + experts_least)));
}

uint64_t HostBudget(const EngineOptions& options) {
  return options.memory_bytes > 0 ? options.memory_bytes : UsableMemoryBytes() / 10 * 8;
}

// Sets the budget, and what of the host's a device leaves it. Errors: ResourceExhausted.
absl::Status SetBudgets(const MemoryNeeds& needs, const EngineOptions& options,
                        const std::optional<DeviceMemory>& device, MemoryPlan* plan) {
  if (!device.has_value()) {
    plan->budget = HostBudget(options);
    return absl::OkStatus();
  }
  plan->device = options.device;
  plan->budget =
      options.device_memory_bytes > 0 ? options.device_memory_bytes : device->free / 10 * 9;
  if (plan->budget > device->free) {
    return absl::ResourceExhaustedError(fmt::format(
        "device_memory is {}, but of the device's {} only {} are free", FormatBytes(plan->budget),
        FormatBytes(device->total), FormatBytes(device->free)));
  }
  plan->host_budget = HostBudget(options);
  plan->host_work_space = needs.host_work_space;
  if (plan->host_budget < plan->host_work_space) {
    return absl::ResourceExhaustedError(
        fmt::format("memory is {}, but reading experts and what goes to and from the device take "
                    "{} on the host",
                    FormatBytes(plan->host_budget), FormatBytes(plan->host_work_space)));
  }
  const uint64_t rest = plan->host_budget - plan->host_work_space;
  const uint64_t experts = options.host_expert_memory_bytes.value_or(rest);
  if (experts > rest) {
    return absl::ResourceExhaustedError(fmt::format(
        "host_expert_memory is {}, but of the memory of {} {} are left beside work space of {}",
        FormatBytes(experts), FormatBytes(plan->host_budget), FormatBytes(rest),
        FormatBytes(plan->host_work_space)));
  }
  plan->host_experts = std::min(experts, needs.all_experts);
  if (plan->host_experts < needs.slot) plan->host_experts = 0;
  return absl::OkStatus();
}

// "" without a device.
std::string DescribeHost(const MemoryPlan& plan) {
  if (plan.device.empty()) return "";
  std::string text = fmt::format("; on the host of {}: work space {}",
                                 FormatBytes(plan.host_budget), FormatBytes(plan.host_work_space));
  if (plan.all_experts == 0) return text;
  return text + fmt::format(", experts {} ({:.0f}%)", FormatBytes(plan.host_experts),
                            100.0 * plan.host_experts / plan.all_experts);
}

}  // namespace

std::string MemoryPlan::ToString() const {
  std::string text =
      fmt::format("budget {}{}: weights {}, work space {}, KV {}", FormatBytes(budget),
                  device.empty() ? "" : fmt::format(" on {}", device), FormatBytes(weights),
                  FormatBytes(work_space), FormatBytes(kv));
  if (all_experts == 0) return text + DescribeHost(*this);
  text += fmt::format(", experts {} ({:.0f}% of all)", FormatBytes(experts),
                      100.0 * experts / all_experts);
  const uint64_t slots = experts / slot;
  if (slots < uint64_t(layer_experts)) {
    text += fmt::format(
        "; a step that asks for all {} experts of a layer takes {} waves through {} slots and "
        "reads "
        "at least {} in each layer",
        layer_experts, (layer_experts + slots - 1) / slots, slots,
        FormatBytes((layer_experts - slots) * slot));
  }
  return text + DescribeHost(*this);
}

absl::StatusOr<DividedMemory> DivideMemory(const MemoryNeeds& needs, const EngineOptions& options,
                                           int model_context,
                                           const std::optional<DeviceMemory>& device) {
  DividedMemory out;
  MemoryPlan& plan = out.plan;
  HOSTLER_RETURN_IF_ERROR(SetBudgets(needs, options, device, &plan));
  plan.weights = needs.weights;
  plan.work_space = needs.work_space;
  plan.all_experts = needs.all_experts;
  plan.slot = needs.slot;
  plan.layer_experts = needs.layer_experts;

  const auto kv_bytes = [&](uint64_t tokens) {
    return (tokens + needs.block_tokens - 1) / needs.block_tokens * needs.kv_block;
  };
  const int context =
      options.max_context > 0 ? std::min(options.max_context, model_context) : model_context;
  const bool asked = options.max_context > 0;
  const uint64_t kv_least = kv_bytes(asked ? context : std::min(context, kLeastContext));
  const uint64_t kv_wanted =
      std::max(kv_least, uint64_t(options.max_sequences) *
                             kv_bytes(std::min(context, asked ? context : kUsualContext)));
  out.least_experts = std::min(needs.pinned + needs.slot, needs.all_experts);
  const uint64_t experts_least = options.expert_memory_bytes > 0
                                     ? std::min(options.expert_memory_bytes, needs.all_experts)
                                     : out.least_experts;
  if (needs.pinned > 0 && experts_least < out.least_experts) {
    return absl::ResourceExhaustedError(
        fmt::format("expert_memory is {}, but the pinned experts and one slot more take {}",
                    FormatBytes(experts_least), FormatBytes(out.least_experts)));
  }
  const uint64_t fixed = plan.weights + plan.work_space;
  const uint64_t rest = plan.budget > fixed ? plan.budget - fixed : 0;
  const uint64_t kv_floor = std::max(kv_least, options.kv_memory_bytes);
  const uint64_t experts_floor = std::max(experts_least, out.least_experts);
  if (kv_floor + experts_floor > rest) {
    return DoesNotFit(plan, kv_floor, experts_floor, needs.pinned);
  }

  if (options.kv_memory_bytes > 0) {
    plan.kv = kv_floor;
  } else if (options.expert_memory_bytes > 0 || needs.all_experts <= rest / 4 * 3) {
    const uint64_t experts = options.expert_memory_bytes > 0 ? experts_least : needs.all_experts;
    plan.kv = std::max(kv_least, std::min(kv_wanted, rest - experts));
  } else {
    plan.kv = std::clamp(rest / 4, kv_least, std::min(kv_wanted, rest - experts_floor));
  }
  plan.kv = plan.kv / needs.kv_block * needs.kv_block;
  plan.experts =
      options.expert_memory_bytes > 0 ? experts_least : std::min(needs.all_experts, rest - plan.kv);
  if (plan.experts < out.least_experts) {
    return DoesNotFit(plan, plan.kv, out.least_experts, needs.pinned);
  }

  out.kv_blocks = static_cast<int>(std::min<uint64_t>(plan.kv / needs.kv_block, 1 << 30));
  out.least_kv_blocks = static_cast<int>(kv_least / needs.kv_block);
  out.max_context =
      static_cast<int>(std::min<int64_t>(context, int64_t{out.kv_blocks} * needs.block_tokens));
  return out;
}

}  // namespace hostler
