// A vocabulary as GGUF files carry it: loaded, then used.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "engine/text/vocabulary_tokenizer.h"
#include "tests/fuzz/fuzz_texts.h"

namespace hostler {
namespace {

std::optional<int32_t> TakeId(FuzzedDataProvider* input) {
  if (!input->ConsumeBool()) return std::nullopt;
  return input->ConsumeBool() ? input->ConsumeIntegral<int32_t>()
                              : input->ConsumeIntegral<int8_t>();
}

std::optional<bool> TakeFlag(FuzzedDataProvider* input) {
  if (!input->ConsumeBool()) return std::nullopt;
  return input->ConsumeBool();
}

// Tokens and merges are the lines that are left in the end.
StoredVocabulary Take(FuzzedDataProvider* input, std::string* text) {
  StoredVocabulary stored;
  stored.model = input->PickValueInArray({"gpt2", "llama", "t5", "bert"});
  stored.pre = input->PickValueInArray({"default", "gpt-2", "llama-bpe", "qwen2", "deepseek-coder",
                                        "deepseek-llm", "gpt-4o", "tekken", "bloom", ""});
  for (std::optional<int32_t>* id :
       {&stored.bos, &stored.eos, &stored.unk, &stored.sep, &stored.cls}) {
    *id = TakeId(input);
  }
  stored.add_bos = TakeFlag(input);
  stored.add_eos = TakeFlag(input);
  stored.add_sep = TakeFlag(input);
  stored.add_space_prefix = input->ConsumeBool();
  stored.remove_extra_whitespaces = input->ConsumeBool();
  stored.precompiled_charsmap = input->ConsumeRandomLengthString(512);
  *text = input->ConsumeRandomLengthString(64);
  // A line is the type and the score, a byte each, and the token.
  const bool typed = input->ConsumeBool();
  const std::string lines = input->ConsumeRemainingBytesAsString();
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = std::min(lines.find('\n', begin), lines.size());
    const std::string line = lines.substr(begin, end - begin);
    begin = end + 1;
    if (line.size() >= 2 && line[0] == '+') {
      stored.merges.push_back(line.substr(1));
      continue;
    }
    if (line.size() < 2) continue;
    if (typed) stored.types.push_back(line[0] - '0');
    stored.scores.push_back(static_cast<float>(static_cast<int8_t>(line[1])));
    stored.tokens.push_back(line.substr(2));
  }
  return stored;
}

}  // namespace
}  // namespace hostler

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  std::string text;
  const auto tokenizer = hostler::NewVocabularyTokenizer(hostler::Take(&input, &text));
  if (tokenizer.ok()) hostler::ExerciseTokenizer(**tokenizer, text);
  return 0;
}
