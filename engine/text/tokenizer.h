// Tokenizer: text ↔ token ids, as the model's own tokenizer does it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace hostler {

struct EncodeOptions {
  // Special tokens written out in the text ("<|im_start|>") become their ids;
  // otherwise they are ordinary text. Chat prompts need it.
  bool parse_special = false;
  // The post-processor's BOS/EOS are added.
  bool add_special = false;
};

// What Decode leaves away at the beginning of a text.
enum class FirstSpace {
  kKeep,
  kDropOfText,           // one space, of the first token that is not special
  kDropOfFirstToken,     // one space
  kDropAllOfFirstToken,  // all spaces that it begins with
};

struct TextEdges {
  FirstSpace first = FirstSpace::kKeep;
  bool drop_last_space = false;  // … and at the end
};

// Immutable; any thread.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual int vocab_size() const = 0;  // largest id + 1

  // Linear in the text's length. Text that is not UTF-8 is encoded as if each
  // bad byte were U+FFFD.
  virtual std::vector<int32_t> Encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;

  // The bytes one token stands for; one token may be a part of a character.
  // Empty for ids the vocabulary lacks.
  virtual std::string TokenBytes(int32_t id) const = 0;

  // True for control tokens (EOS, <|im_start|>…), which text normally leaves out.
  virtual bool IsSpecial(int32_t id) const = 0;

  virtual std::optional<int32_t> FindToken(std::string_view text) const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;

  // Spaces that the tokens' bytes have and the text did not.
  virtual TextEdges edges() const { return {}; }

  // Joins the tokens' bytes, less what edges() says. Ill-formed UTF-8 becomes
  // U+FFFD.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;
};

// Reads tokenizer.json (and tokenizer_config.json, if it is there) of a
// Hugging Face directory. Errors: NotFound; InvalidArgument for malformed
// content; Unimplemented naming the component that is not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadHfTokenizer(const std::string& directory);

}  // namespace hostler
