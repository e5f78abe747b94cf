#include "engine/text/detokenizer.h"

#include "engine/base/utf8.h"

namespace hostler {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string IncrementalDetokenizer::Add(int32_t id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return {};
  pending_ += tokenizer_->TokenBytes(id);
  std::string text;
  const size_t used = AppendMended(pending_, /*final=*/false, &text);
  pending_.erase(0, used);
  return text;
}

std::string IncrementalDetokenizer::Finish() {
  std::string text;
  AppendMended(pending_, /*final=*/true, &text);
  pending_.clear();
  return text;
}

}  // namespace hostler
