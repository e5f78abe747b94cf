#include "engine/engine/output.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hostler {
namespace {

// Why the sequence ends with `token`, its latest, leaving stop strings aside.
std::optional<FinishReason> FinishAfter(const Sequence& sequence, int32_t token) {
  const RequestState& state = *sequence.request;
  const bool stops =
      std::find(state.stop_ids.begin(), state.stop_ids.end(), token) != state.stop_ids.end();
  if (stops) return FinishReason::kStop;
  if (sequence.generated() >= state.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

// Appends to `shown` the text that can be shown now that `token` is there.
void ShowText(Sequence& sequence, int32_t token, std::optional<FinishReason>* finish,
              std::string* shown) {
  if (sequence.detokenizer == nullptr) return;
  const GenerateRequest& request = sequence.request->request;
  const bool hidden = *finish == FinishReason::kStop && !request.include_stop_str;
  if (!hidden) *shown += sequence.detokenizer->Add(token);
  if (finish->has_value()) *shown += sequence.detokenizer->Finish();
  if (request.stop.empty() || sequence.generated() < request.min_tokens) return;
  *shown = sequence.stops.Add(*shown);
  if (!sequence.stops.found().empty()) {
    *finish = FinishReason::kStop;
  } else if (finish->has_value()) {
    *shown += sequence.stops.Flush();
  }
}

// What would end it before it has as many tokens as it is to have.
std::span<const int32_t> Banned(const Sequence& sequence) {
  const RequestState& state = *sequence.request;
  if (sequence.generated() >= state.request.min_tokens) return {};
  return state.stop_ids;
}

}  // namespace

PositionLogprobs MakeLogprobs(std::span<const float> logits, int32_t token, int top,
                              const Tokenizer* tokenizer) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float z : logits) sum += std::exp(static_cast<double>(z) - max);
  const double log_sum = max + std::log(sum);
  const auto entry = [&](int32_t id) {
    return TokenLogprob{id, static_cast<float>(logits[id] - log_sum),
                        tokenizer == nullptr ? "" : tokenizer->TokenBytes(id)};
  };
  PositionLogprobs out;
  out.chosen = entry(token);
  if (top <= 0) return out;
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const auto end = ids.begin() + std::min<size_t>(top, ids.size());
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  for (auto id = ids.begin(); id != end; ++id) out.top.push_back(entry(*id));
  return out;
}

int StrongestNeeded(const Sequence& sequence) {
  if (sequence.request->request.logprobs.has_value()) return 0;
  return sequence.sampler.rule().StrongestNeeded(Banned(sequence).size());
}

int32_t DrawToken(Sequence& sequence, std::span<const float> logits) {
  return sequence.sampler.Sample(logits, Banned(sequence));
}

std::optional<int32_t> DrawToken(Sequence& sequence, std::span<const LogitCandidate> strongest,
                                 int vocab) {
  return sequence.sampler.SampleFrom(strongest, vocab, Banned(sequence));
}

void AddToken(Sequence& sequence, int32_t token, std::span<const float> logits,
              const Tokenizer* tokenizer, GenerateEvent* event) {
  RequestState& state = *sequence.request;
  sequence.tokens.push_back(token);
  ++state.usage.completion_tokens;

  event->index = sequence.index;
  event->token_ids.assign(1, token);
  event->logprobs.clear();
  if (state.request.logprobs.has_value()) {
    event->logprobs.push_back(MakeLogprobs(logits, token, *state.request.logprobs, tokenizer));
  }
  event->finish_reason = FinishAfter(sequence, token);
  event->text.clear();
  ShowText(sequence, token, &event->finish_reason, &event->text);
  event->stop_reason = sequence.stops.found();
}

}  // namespace hostler
