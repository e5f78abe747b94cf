#include "server/openai/common_fields.h"

#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int kMaxChoices = 128;
constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxStopTokens = 1024;
constexpr size_t kMaxLogitBias = 4096;
constexpr size_t kMaxSaltBytes = 256;
constexpr int kMaxInt = std::numeric_limits<int>::max();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool IsOne(const Json& value) { return value.is_number() && value.get<double>() == 1; }

bool IsTextFormat(const Json& value) {
  const Json* type = FindKey(value, "type");
  return type != nullptr && *type == "text";
}

constexpr char kNoConstraints[] = "constrained output is not supported";

constexpr UnsupportedField kUnsupported[] = {
    {"response_format", IsTextFormat, "only {\"type\": \"text\"} is supported"},
    {"structured_outputs", IsEmptyOrFalse, kNoConstraints},
    {"guided_json", NeverHarmless, kNoConstraints},
    {"guided_regex", IsEmptyOrFalse, kNoConstraints},
    {"guided_choice", IsEmptyOrFalse, kNoConstraints},
    {"guided_grammar", IsEmptyOrFalse, kNoConstraints},
    {"structural_tag", IsEmptyOrFalse, kNoConstraints},
    {"use_beam_search", IsEmptyOrFalse, "beam search is not supported"},
    {"length_penalty", IsOne, "beam search is not supported"},
    {"allowed_token_ids", NeverHarmless, "is not supported"},
    {"bad_words", IsEmptyOrFalse, "is not supported"},
    {"logits_processors", IsEmptyOrFalse, "is not supported"},
    {"truncate_prompt_tokens", NeverHarmless, "is not supported: shorten the prompt instead"},
    {"kv_transfer_params", IsEmptyOrFalse, "is not supported"},
};

void ReadSeed(FieldReader* fields, std::optional<uint64_t>* seed) {
  std::optional<int64_t> value;
  fields->ReadInt("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(),
                  &value);
  // vLLM's clients write -1 for a random seed.
  if (value.has_value() && *value != -1) *seed = uint64_t(*value);
}

void ReadLogitBias(FieldReader* fields, std::vector<std::pair<int32_t, float>>* bias) {
  const Json* value = fields->Find("logit_bias");
  if (value == nullptr) return;
  const auto* entries = value->get_ptr<const Json::object_t*>();
  if (entries == nullptr) {
    return fields->Fail("logit_bias",
                        fmt::format("must be an object, not {}", JsonTypeName(*value)));
  }
  if (entries->size() > kMaxLogitBias) {
    return fields->Fail("logit_bias", fmt::format("must have at most {} entries", kMaxLogitBias));
  }
  for (const auto& [key, amount] : *entries) {
    const bool digits = !key.empty() && key.size() <= 10 &&
                        key.find_first_not_of("0123456789") == std::string::npos;
    const int64_t id = digits ? std::stoll(key) : -1;
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      return fields->Fail("logit_bias", "keys must be token ids");
    }
    const std::string name = "logit_bias." + key;
    if (!amount.is_number()) {
      return fields->Fail(name, fmt::format("must be a number, not {}", JsonTypeName(amount)));
    }
    const double number = amount.get<double>();
    if (!(number >= -100 && number <= 100)) {
      return fields->Fail(name, "must be between -100 and 100");
    }
    bias->emplace_back(int32_t(id), float(number));
  }
}

void ReadSampling(FieldReader* fields, SamplingParams* sampling) {
  fields->ReadNumber("temperature", {0, 2}, &sampling->temperature);
  fields->ReadNumber("top_p", {0, 1, true}, &sampling->top_p);
  fields->ReadNumber("min_p", {0, 1}, &sampling->min_p);
  fields->ReadInt("top_k", -1, kMaxInt, &sampling->top_k);
  // -1 is vLLM's other way to write "off".
  if (sampling->top_k == -1) sampling->top_k = 0;
  fields->ReadNumber("repetition_penalty", {0, kInfinity, true}, &sampling->repetition_penalty);
  fields->ReadNumber("presence_penalty", {-2, 2}, &sampling->presence_penalty);
  fields->ReadNumber("frequency_penalty", {-2, 2}, &sampling->frequency_penalty);
  ReadSeed(fields, &sampling->seed);
  ReadLogitBias(fields, &sampling->logit_bias);
}

void AddStop(FieldReader* fields, const std::string& name, const Json& value,
             std::vector<std::string>* stops) {
  if (!value.is_string()) {
    return fields->Fail(name, fmt::format("must be a string, not {}", JsonTypeName(value)));
  }
  const std::string& text = value.get_ref<const std::string&>();
  if (text.empty()) return fields->Fail(name, "must not be empty");
  if (text.size() > kMaxStopBytes) {
    return fields->Fail(name, fmt::format("must be at most {} bytes long", kMaxStopBytes));
  }
  stops->push_back(text);
}

void ReadStops(FieldReader* fields, std::vector<std::string>* stops) {
  const Json* value = fields->Find("stop");
  if (value == nullptr) return;
  if (value->is_string()) return AddStop(fields, "stop", *value, stops);
  if (!value->is_array()) {
    return fields->Fail("stop", fmt::format("must be a string or an array of strings, not {}",
                                            JsonTypeName(*value)));
  }
  if (value->size() > kMaxStops) {
    return fields->Fail("stop", fmt::format("must have at most {} entries", kMaxStops));
  }
  for (size_t i = 0; i < value->size() && fields->ok(); ++i) {
    AddStop(fields, fmt::format("stop[{}]", i), (*value)[i], stops);
  }
}

void ReadCacheSalt(FieldReader* fields, std::string* salt) {
  fields->Read("cache_salt", salt);
  if (salt->size() > kMaxSaltBytes) {
    fields->Fail("cache_salt", fmt::format("must be at most {} bytes long", kMaxSaltBytes));
  }
}

void ReadStreamOptions(FieldReader* fields, AnswerOptions* answer) {
  const Json* value = fields->Find("stream_options");
  if (value == nullptr) return;
  if (!value->is_object()) {
    return fields->Fail("stream_options",
                        fmt::format("must be an object, not {}", JsonTypeName(*value)));
  }
  if (!answer->stream) return fields->Fail("stream_options", "needs stream: true");
  FieldReader options(*value, "stream_options");
  options.Read("include_usage", &answer->include_usage);
  options.Read("continuous_usage_stats", &answer->running_usage);
  answer->running_usage &= answer->include_usage;
  fields->Fail(options.status());
}

}  // namespace

bool IsEmptyOrFalse(const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.is_structured() && value.empty();
}

bool NeverHarmless(const Json&) { return false; }

void RefuseUnsupported(FieldReader* fields, const UnsupportedField* begin,
                       const UnsupportedField* end) {
  for (const UnsupportedField* field = begin; field != end; ++field) {
    const Json* value = fields->Find(field->name);
    if (value != nullptr && !field->harmless(*value)) fields->Fail(field->name, field->message);
  }
}

absl::StatusOr<Json> ParseBody(std::string_view body) {
  absl::StatusOr<Json> json = ParseJson(body);
  if (json.ok() && !json->is_object()) {
    return absl::InvalidArgumentError(
        fmt::format("the body must be a JSON object, not {}", JsonTypeName(*json)));
  }
  return json;
}

void ReadCommonFields(FieldReader* fields, GenerateRequest* request, AnswerOptions* answer) {
  fields->Read("model", &request->model);
  ReadSampling(fields, &request->sampling);
  fields->ReadInt("n", 1, kMaxChoices, &answer->n);
  request->n = answer->n;
  fields->ReadInt("min_tokens", 0, kMaxInt, &request->min_tokens);
  ReadStops(fields, &request->stop);
  fields->ReadTokens("stop_token_ids", kMaxStopTokens, &request->stop_token_ids);
  fields->Read("ignore_eos", &request->ignore_eos);
  fields->Read("include_stop_str_in_output", &request->include_stop_str);
  fields->Read("skip_special_tokens", &request->skip_special_tokens);
  fields->Read("stream", &answer->stream);
  ReadStreamOptions(fields, answer);
  fields->ReadInt("prompt_logprobs", 0, kMaxLogprobs, &answer->prompt_logprobs);
  if (answer->prompt_logprobs.has_value() && answer->stream) {
    fields->Fail("prompt_logprobs", "cannot be had with stream: true");
  }
  request->prompt_logprobs = answer->prompt_logprobs;
  ReadRouteWish(fields, request);
  ReadCacheSalt(fields, &request->cache_salt);
  RefuseUnsupported(fields, std::begin(kUnsupported), std::end(kUnsupported));
}

}  // namespace hostler
