#include "engine/engine/prepare.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int kMaxSequences = 128;
constexpr int kMaxLogprobs = 100;

absl::Status CheckRange(std::string_view field, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return FieldError(field, fmt::format("is {}, must be from {} to {}", value, least, most));
}

absl::StatusOr<SamplingRule> ResolveSampling(const SamplingParams& params,
                                             const GenerationDefaults& defaults, int vocab) {
  const auto pick = [](auto asked, auto preset, auto fallback) {
    return asked.value_or(preset.value_or(fallback));
  };
  SamplingRule rule;
  rule.temperature = pick(params.temperature, defaults.temperature, 1.0);
  rule.top_k = pick(params.top_k, defaults.top_k, 0);
  rule.top_p = pick(params.top_p, defaults.top_p, 1.0);
  rule.min_p = pick(params.min_p, defaults.min_p, 0.0);
  rule.repetition_penalty = pick(params.repetition_penalty, defaults.repetition_penalty, 1.0);
  rule.presence_penalty = params.presence_penalty;
  rule.frequency_penalty = params.frequency_penalty;
  rule.logit_bias = params.logit_bias;
  HOSTLER_RETURN_IF_ERROR(CheckRange("temperature", rule.temperature, 0, 100));
  HOSTLER_RETURN_IF_ERROR(CheckRange("top_k", rule.top_k, -1, 1 << 24));
  HOSTLER_RETURN_IF_ERROR(CheckRange("top_p", rule.top_p, 0, 1));
  HOSTLER_RETURN_IF_ERROR(CheckRange("min_p", rule.min_p, 0, 1));
  HOSTLER_RETURN_IF_ERROR(CheckRange("repetition_penalty", rule.repetition_penalty, 1e-3, 1e3));
  HOSTLER_RETURN_IF_ERROR(CheckRange("presence_penalty", rule.presence_penalty, -100, 100));
  HOSTLER_RETURN_IF_ERROR(CheckRange("frequency_penalty", rule.frequency_penalty, -100, 100));
  for (const auto& [id, bias] : rule.logit_bias) {
    if (id < 0 || id >= vocab) {
      return FieldError("logit_bias", fmt::format("token {} is not in the vocabulary", id));
    }
    if (!std::isfinite(bias)) return FieldError("logit_bias", "must be a finite number");
  }
  return rule;
}

absl::Status CheckLimits(const GenerateRequest& request, const LoadedModel& model) {
  HOSTLER_RETURN_IF_ERROR(CheckRange("n", request.n, 1, kMaxSequences));
  HOSTLER_RETURN_IF_ERROR(CheckRange("max_tokens", request.max_tokens.value_or(1), 1, 1 << 30));
  HOSTLER_RETURN_IF_ERROR(CheckRange("min_tokens", request.min_tokens, 0, 1 << 30));
  HOSTLER_RETURN_IF_ERROR(CheckRange("logprobs", request.logprobs.value_or(0), 0, kMaxLogprobs));
  HOSTLER_RETURN_IF_ERROR(
      CheckRange("prompt_logprobs", request.prompt_logprobs.value_or(0), 0, kMaxLogprobs));
  if (request.max_tokens.has_value() && request.min_tokens > *request.max_tokens) {
    return FieldError("min_tokens", "is more than max_tokens");
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) return FieldError("stop", "must not be empty");
  }
  if (!request.stop.empty() && model.text.tokenizer == nullptr) {
    return FieldError("stop", "this model has no tokenizer, so there is no text to stop at");
  }
  const int vocab = model.model->info().vocab;
  for (const int32_t id : request.stop_token_ids) {
    if (id < 0 || id >= vocab) {
      return FieldError("stop_token_ids", fmt::format("token {} is not in the vocabulary", id));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RenderChat(const LoadedModel& model, const ChatPrompt& chat) {
  if (model.text.chat_template == nullptr) {
    return FieldError(
        "messages",
        "this model has no chat template; use /v1/completions or serve it with --chat-template");
  }
  nlohmann::ordered_json variables = model.text.template_variables;
  variables["messages"] = chat.messages;
  variables["tools"] = chat.tools;
  variables["documents"] = chat.documents;
  variables["add_generation_prompt"] = chat.add_generation_prompt;
  for (const auto& [key, value] : chat.variables.items()) variables[key] = value;
  auto text = model.text.chat_template->Render(variables);
  if (!text.ok()) return FieldError("messages", std::string(text.status().message()));
  return text;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TokenizePrompt(const LoadedModel& model,
                                                    const GenerateRequest& request) {
  const int vocab = model.model->info().vocab;
  if (const auto* ids = std::get_if<TokenPrompt>(&request.prompt)) {
    for (const int32_t id : *ids) {
      if (id < 0 || id >= vocab) {
        return FieldError(
            "prompt", fmt::format("token {} is not in the vocabulary (0 to {})", id, vocab - 1));
      }
    }
    return *ids;
  }
  const auto* chat = std::get_if<ChatPrompt>(&request.prompt);
  if (model.text.tokenizer == nullptr) {
    return FieldError(chat != nullptr ? "messages" : "prompt",
                      "this model has no tokenizer; send token ids");
  }
  EncodeOptions options;
  options.parse_special = true;
  if (chat != nullptr) {
    HOSTLER_ASSIGN_OR_RETURN(const std::string text, RenderChat(model, *chat));
    return model.text.tokenizer->Encode(text, options);
  }
  options.add_special = request.add_special_tokens;
  return model.text.tokenizer->Encode(std::get<std::string>(request.prompt), options);
}

absl::StatusOr<std::vector<std::unique_ptr<Sequence>>> PrepareSequences(const LoadedModel& model,
                                                                        int max_context,
                                                                        GenerateRequest request) {
  const ModelInfo& info = model.model->info();
  HOSTLER_RETURN_IF_ERROR(CheckLimits(request, model));
  HOSTLER_ASSIGN_OR_RETURN(const SamplingRule rule,
                           ResolveSampling(request.sampling, model.defaults, info.vocab));
  auto state = std::make_shared<RequestState>();
  HOSTLER_ASSIGN_OR_RETURN(state->prompt, TokenizePrompt(model, request));
  const std::string_view field =
      std::holds_alternative<ChatPrompt>(request.prompt) ? "messages" : "prompt";
  const int prompt_size = static_cast<int>(state->prompt.size());
  if (prompt_size == 0) return FieldError(field, "must not be empty");
  if (prompt_size >= max_context) {
    return FieldError(field, fmt::format("has {} tokens; this model's context of {} has no room "
                                         "for an answer",
                                         prompt_size, max_context));
  }
  state->max_tokens = std::min(request.max_tokens.value_or(max_context), max_context - prompt_size);
  request.min_tokens = std::min(request.min_tokens, state->max_tokens);
  state->stop_ids = request.stop_token_ids;
  if (!request.ignore_eos) {
    state->stop_ids.insert(state->stop_ids.end(), info.eos_ids.begin(), info.eos_ids.end());
  }
  state->usage.prompt_tokens = prompt_size;
  state->live = request.n;
  std::random_device random;
  const uint64_t seed = request.sampling.seed.value_or((uint64_t{random()} << 32) ^ random());
  const int n = request.n;
  state->request = std::move(request);

  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int index = 0; index < n; ++index) {
    sequences.push_back(
        std::make_unique<Sequence>(state, index, rule, seed, model.text.tokenizer.get()));
  }
  return sequences;
}

}  // namespace hostler
