// Tokenizers from a bare vocabulary, as GGUF files carry it: tokens, scores
// and merges, and the name of the algorithm.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace hostler {

// By their numbers in the file (tokenizer.ggml.token_type).
enum class StoredTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,      // stands for what no token covers
  kControl = 3,      // special: BOS, <|im_start|>…
  kUserDefined = 4,  // found in any text before it is split
  kUnused = 5,
  kByte = 6,  // "<0x0A>"
};

// What a file says about its tokenizer. The comments name the GGUF keys, which
// begin with "tokenizer.ggml."; what is not there stays empty.
struct StoredVocabulary {
  // "model": "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "t5"
  // (SentencePiece unigram) or "bert" (WordPiece).
  std::string model;
  std::string pre;  // "pre": how text is cut into words; "gpt2" only
  std::vector<std::string> tokens;
  std::vector<float> scores;        // "llama", "t5": one per token
  std::vector<int32_t> types;       // "token_type": StoredTokenType; empty: all normal
  std::vector<std::string> merges;  // "gpt2": "left right" by falling priority

  std::optional<int32_t> bos;  // "bos_token_id"
  std::optional<int32_t> eos;  // "eos_token_id"
  std::optional<int32_t> unk;  // "unknown_token_id"
  std::optional<int32_t> sep;  // "seperator_token_id" (sic)
  std::optional<int32_t> cls;  // "cls_token_id"

  // What EncodeOptions::add_special adds. Not given: what is usual for the
  // model and pre-tokenizer. "bert" adds CLS for BOS.
  std::optional<bool> add_bos;  // "add_bos_token"
  std::optional<bool> add_eos;  // "add_eos_token"
  std::optional<bool> add_sep;  // "add_sep_token"

  // "llama" and "t5" only.
  bool add_space_prefix = true;           // "add_space_prefix"
  bool remove_extra_whitespaces = false;  // "remove_extra_whitespaces"
  std::string precompiled_charsmap;       // "precompiled_charsmap": SentencePiece's
};

// Errors: InvalidArgument for what contradicts itself; Unimplemented naming
// the model or the pre-tokenizer that is not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> NewVocabularyTokenizer(StoredVocabulary stored);

}  // namespace hostler
