#include "server/openai/logprobs.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "engine/base/json.h"
#include "fmt/format.h"

namespace hostler {
namespace {

int CountCharacters(std::string_view text) {
  return int(std::count_if(text.begin(), text.end(),
                           [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void AppendComma(std::string* out) {
  if (!out->empty()) out->push_back(',');
}

// The most likely tokens, then the chosen one if it is not among them.
std::vector<const TokenLogprob*> Candidates(const PositionLogprobs& position) {
  std::vector<const TokenLogprob*> all;
  bool chosen_is_there = false;
  for (const TokenLogprob& token : position.top) {
    all.push_back(&token);
    chosen_is_there |= token.id == position.chosen.id;
  }
  if (!chosen_is_there) all.push_back(&position.chosen);
  return all;
}

// {"text": logprob, …}. Several tokens may read the same; the likeliest stays.
void AppendTopLogprobs(const PositionLogprobs& position, std::string* out) {
  std::vector<std::string> seen;
  out->push_back('{');
  for (const TokenLogprob* token : Candidates(position)) {
    std::string text;
    AppendJsonString(token->bytes, &text);
    if (std::find(seen.begin(), seen.end(), text) != seen.end()) continue;
    if (!seen.empty()) out->push_back(',');
    *out += text;
    out->push_back(':');
    AppendJsonLogprob(token->logprob, out);
    seen.push_back(std::move(text));
  }
  out->push_back('}');
}

void AppendTokenFields(const TokenLogprob& token, std::string* out) {
  *out += "\"token\":";
  AppendJsonString(token.bytes, out);
  *out += ",\"logprob\":";
  AppendJsonLogprob(token.logprob, out);
  *out += ",\"bytes\":[";
  for (size_t i = 0; i < token.bytes.size(); ++i) {
    if (i > 0) out->push_back(',');
    fmt::format_to(std::back_inserter(*out), "{}", int(static_cast<unsigned char>(token.bytes[i])));
  }
  out->push_back(']');
}

}  // namespace

void CompletionLogprobs::AddToken(std::string_view bytes) {
  AppendComma(&tokens_);
  AppendJsonString(bytes, &tokens_);
  AppendComma(&text_offsets_);
  text_offsets_ += std::to_string(offset_);
  offset_ += CountCharacters(bytes);
  AppendComma(&token_logprobs_);
  AppendComma(&top_logprobs_);
}

void CompletionLogprobs::Add(const PositionLogprobs& position) {
  AddToken(position.chosen.bytes);
  AppendJsonLogprob(position.chosen.logprob, &token_logprobs_);
  AppendTopLogprobs(position, &top_logprobs_);
}

void CompletionLogprobs::AddFirst(std::string_view bytes) {
  AddToken(bytes);
  token_logprobs_ += "null";
  top_logprobs_ += "null";
}

void CompletionLogprobs::AppendTo(std::string* out) const {
  fmt::format_to(
      std::back_inserter(*out),
      R"({{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})", tokens_,
      token_logprobs_, top_logprobs_, text_offsets_);
}

void CompletionLogprobs::Clear() {
  tokens_.clear();
  token_logprobs_.clear();
  top_logprobs_.clear();
  text_offsets_.clear();
}

void AppendChatLogprob(const PositionLogprobs& position, std::string* out) {
  AppendComma(out);
  out->push_back('{');
  AppendTokenFields(position.chosen, out);
  *out += ",\"top_logprobs\":[";
  for (size_t i = 0; i < position.top.size(); ++i) {
    *out += i > 0 ? ",{" : "{";
    AppendTokenFields(position.top[i], out);
    out->push_back('}');
  }
  *out += "]}";
}

void AppendPromptLogprobs(std::span<const PositionLogprobs> positions, std::string* out) {
  *out += "[null";
  for (const PositionLogprobs& position : positions) {
    *out += ",{";
    const auto candidates = Candidates(position);
    for (size_t i = 0; i < candidates.size(); ++i) {
      const TokenLogprob& token = *candidates[i];
      fmt::format_to(std::back_inserter(*out), "{}\"{}\":{{\"logprob\":", i > 0 ? "," : "",
                     token.id);
      AppendJsonLogprob(token.logprob, out);
      // The rank of a token that is not among the likeliest is not known.
      const std::string rank = i < position.top.size() ? std::to_string(i + 1) : "null";
      *out += ",\"rank\":" + rank + ",\"decoded_token\":";
      AppendJsonString(token.bytes, out);
      out->push_back('}');
    }
    out->push_back('}');
  }
  out->push_back(']');
}

}  // namespace hostler
