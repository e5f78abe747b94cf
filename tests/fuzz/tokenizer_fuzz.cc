// A tokenizer.json: loaded, then used.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/text/hf_tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz_texts.h"

// What follows the first line that is "---" is text to encode.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find("\n---\n");
  const nlohmann::json file =
      nlohmann::json::parse(input.substr(0, cut), nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return 0;
  const auto tokenizer = hostler::NewHfTokenizer(file, nlohmann::json());
  if (!tokenizer.ok()) return 0;
  hostler::ExerciseTokenizer(**tokenizer,
                             cut == std::string::npos ? std::string() : input.substr(cut + 5));
  return 0;
}
