#include "engine/text/wordpiece.h"

#include <string_view>
#include <utility>

#include "engine/base/utf8.h"
#include "engine/text/byte_trie.h"
#include "engine/text/sentencepiece.h"
#include "fmt/format.h"

namespace hostler {
namespace {

class WordPiece : public WordModel {
 public:
  explicit WordPiece(WordPieceOptions options) : options_(std::move(options)) {}

  void Add(std::string_view token, int32_t id) {
    const bool begins = token.starts_with(options_.first_prefix);
    if (begins && token.size() > options_.first_prefix.size()) {
      first_.Add(token.substr(options_.first_prefix.size()), id);
    }
    if (begins && !options_.first_prefix.empty()) return;
    const bool continues = token.starts_with(options_.continuing_prefix);
    if (continues && token.size() > options_.continuing_prefix.size()) {
      continuing_.Add(token.substr(options_.continuing_prefix.size()), id);
    }
  }

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    const size_t first = ids->size();
    if (Cut(word, ids)) return;
    ids->resize(first);
    if (options_.unk.has_value()) ids->push_back(*options_.unk);
  }

 private:
  bool Cut(std::string_view word, std::vector<int32_t>* ids) const {
    size_t characters = 0;
    for (size_t pos = 0; pos < word.size(); pos += Utf8Length(word, pos)) {
      if (++characters > options_.max_characters) return false;
    }
    for (size_t begin = 0; begin < word.size();) {
      const size_t end = Longest(word, begin, begin == 0 ? first_ : continuing_, ids);
      if (end == begin) return false;
      begin = end;
    }
    return true;
  }

  // Appends the longest token at `begin` and returns its end; `begin` when
  // there is none.
  static size_t Longest(std::string_view word, size_t begin, const ByteTrie& tokens,
                        std::vector<int32_t>* ids) {
    size_t best_end = begin;
    int32_t best = -1;
    uint32_t node = 0;
    for (size_t end = begin; end < word.size();) {
      node = tokens.Next(node, static_cast<unsigned char>(word[end++]));
      if (node == 0) break;
      if (tokens.Id(node) < 0) continue;
      best = tokens.Id(node);
      best_end = end;
    }
    if (best >= 0) ids->push_back(best);
    return best_end;
  }

  WordPieceOptions options_;
  ByteTrie first_;
  ByteTrie continuing_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WordModel>> NewWordPiece(const Vocabulary& vocabulary,
                                                        WordPieceOptions options) {
  auto model = std::make_unique<WordPiece>(std::move(options));
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view token = vocabulary.Text(id);
    if (token.size() > kMaxScoredTokenBytes) {
      return absl::InvalidArgumentError(fmt::format("token {} has {} bytes; at most {} are allowed",
                                                    id, token.size(), kMaxScoredTokenBytes));
    }
    // Half a character would leave a rest that is not UTF-8.
    if (IsUtf8(token) && vocabulary.Find(token) == id) model->Add(token, id);
  }
  return model;
}

}  // namespace hostler
