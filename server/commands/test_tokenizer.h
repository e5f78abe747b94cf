// A tokenizer for tests: each ASCII byte is its own token, and "<end>" is a
// special one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace hostler {

class TestTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kEnd = 128;

  int vocab_size() const override { return kEnd + 1; }

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      const bool end = options.parse_special && text.starts_with("<end>");
      ids.push_back(end ? kEnd : text.front() & 0x7f);
      text.remove_prefix(end ? 5 : 1);
    }
    if (options.add_special) ids.push_back(kEnd);
    return ids;
  }

  std::string TokenBytes(int32_t id) const override {
    if (id == kEnd) return "<end>";
    return id < kEnd ? std::string(1, static_cast<char>(id)) : "";
  }
  bool IsSpecial(int32_t id) const override { return id == kEnd; }
  std::optional<int32_t> FindToken(std::string_view) const override { return std::nullopt; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return kEnd; }
};

}  // namespace hostler
