// Vocabulary: tokens by id and ids by token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"

namespace hostler {

// Immutable once filled; then any thread.
class Vocabulary {
 public:
  // Errors: InvalidArgument when the id or the text is there already.
  // REQUIRES: 0 <= id.
  absl::Status Add(std::string text, int32_t id);

  // Gives `id` a text that may belong to another id, which Find goes on
  // naming. REQUIRES: 0 <= id, !Has(id).
  void AddDuplicate(const std::string& text, int32_t id);

  std::optional<int32_t> Find(std::string_view text) const;

  // Empty for ids that have no token.
  std::string_view Text(int32_t id) const;

  bool Has(int32_t id) const;

  // Largest id + 1.
  int size() const { return static_cast<int>(tokens_.size()); }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  void SetText(int32_t id, const std::string* text);

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> tokens_;  // keys of ids_; null: none
};

}  // namespace hostler
