#include <utility>

#include "engine/base/utf8.h"
#include "engine/text/chars_map.h"
#include "engine/text/sentencepiece.h"

namespace hostler {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";

class SentencePieceNormalizer : public Normalizer {
 public:
  SentencePieceNormalizer(CharsMap map, bool remove_extra)
      : map_(std::move(map)), remove_extra_(remove_extra) {}

  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size() + text.size() / 2);
    bool after_space = remove_extra_;
    const size_t most = MostNormalizedBytes(text.size());
    for (size_t pos = 0; pos < text.size();) {
      if (out.size() > most) return ReplaceBadBytes(out + text.substr(pos));
      for (char c : map_.Next(text, &pos)) {
        if (c != ' ') {
          out.push_back(c);
        } else if (!after_space) {
          out.append(kSpace);
        }
        after_space = remove_extra_ && c == ' ';
      }
    }
    if (remove_extra_ && after_space && !out.empty()) out.resize(out.size() - kSpace.size());
    return IsUtf8(out) ? out : ReplaceBadBytes(out);
  }

 private:
  CharsMap map_;
  bool remove_extra_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> NewSentencePieceNormalizer(
    std::string charsmap, bool remove_extra_whitespaces) {
  absl::StatusOr<CharsMap> map = CharsMap::Parse(std::move(charsmap));
  if (!map.ok()) return map.status();
  return std::make_unique<SentencePieceNormalizer>(*std::move(map), remove_extra_whitespaces);
}

}  // namespace hostler
