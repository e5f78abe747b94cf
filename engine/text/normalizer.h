// Normalizers: what a tokenizer does to text before it splits it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace hostler {

// No text may grow beyond this by what a file says to replace: what follows
// stays as it is.
inline size_t MostNormalizedBytes(size_t text_bytes) { return (size_t{1} << 20) + 16 * text_bytes; }

// Immutable; any thread. Linear in the text's length.
class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // REQUIRES: well-formed UTF-8.
  virtual std::string Apply(std::string text) const = 0;
};

// The "normalizer" of a tokenizer.json; null gives one that does nothing.
// Errors: InvalidArgument; Unimplemented naming the type.
absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const nlohmann::json& json);

}  // namespace hostler
