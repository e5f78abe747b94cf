// Pre-tokenizers: split text into the words that the model encodes one by one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/regex.h"
#include "nlohmann/json.hpp"

namespace hostler {

// A text and the parts of it that are left as words. Parts are in order, not
// empty, and do not overlap.
struct Words {
  std::string text;
  std::vector<TextRange> parts;
  bool at_start = true;  // the text begins where the whole input begins
};

// What becomes of the matches of a Split (and of the text between them).
enum class SplitBehavior {
  kIsolated,
  kRemoved,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

// Immutable; any thread. Linear in the text's length.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Apply(Words* words) const = 0;
};

// `invert`: the matches are what is between the pattern's matches.
std::unique_ptr<PreTokenizer> NewSplit(std::unique_ptr<Regex> pattern, SplitBehavior behavior,
                                       bool invert);

// Every byte becomes its printable character (byte_level.h).
std::unique_ptr<PreTokenizer> NewByteLevel(bool add_prefix_space);

std::unique_ptr<PreTokenizer> NewPreTokenizerSequence(
    std::vector<std::unique_ptr<PreTokenizer>> steps);

// The pattern that ByteLevel splits with unless told not to (GPT-2's).
extern const char kGpt2Pattern[];

// The "pre_tokenizer" of a tokenizer.json; null gives one that does nothing.
// Errors: InvalidArgument; Unimplemented naming the type.
absl::StatusOr<std::unique_ptr<PreTokenizer>> ParsePreTokenizer(const nlohmann::json& json);

}  // namespace hostler
