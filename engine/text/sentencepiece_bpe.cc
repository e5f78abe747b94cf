#include <algorithm>
#include <functional>
#include <unordered_map>
#include <utility>

#include "engine/base/utf8.h"
#include "engine/text/pair_merger.h"
#include "engine/text/sentencepiece.h"

namespace hostler {
namespace {

constexpr char32_t kSpace = 0x2581;

// Merges are not listed: any two neighbours merge that make a token, the best
// scored first. So a symbol is a token, or a character that is none but part
// of one; the latter get ids behind the vocabulary's.
class SentencePieceBpe : public WordModel {
 public:
  SentencePieceBpe(const Vocabulary* vocabulary, const std::vector<ScoredToken>& tokens,
                   UnknownTokens unknown)
      : vocabulary_(vocabulary), unknown_(std::move(unknown)), merger_(tokens.size() * 2) {
    small_characters_.fill(-1);
    for (const ScoredToken& token : tokens) {
      const std::string_view text = vocabulary_->Text(token.id);
      symbols_.emplace(text, token.id);
      if (Utf8Length(text, 0) == text.size()) AddCharacter(text, token.id);
    }
    for (const ScoredToken& token : tokens) AddParts(vocabulary_->Text(token.id));
    AddPairs(tokens);
    symbols_.clear();
  }

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    std::vector<int32_t> run;
    bool after_unknown = false;
    const auto flush = [&] {
      merger_.Merge(&run, 0);
      for (int32_t symbol : run) {
        if (symbol < vocabulary_->size()) {
          ids->push_back(symbol);
          after_unknown = false;
        } else {
          unknown_.Append(lone_characters_[symbol - vocabulary_->size()], &after_unknown, ids);
        }
      }
      run.clear();
    };
    char32_t previous = 0;
    for (size_t pos = 0; pos < word.size();) {
      const size_t begin = pos;
      const char32_t c = NextCodePoint(word, &pos);
      const int32_t symbol = Symbol(c);
      const bool new_word = spaces_lead_ && c == kSpace && previous != kSpace;
      if (symbol < 0 || new_word) flush();
      if (symbol >= 0) {
        run.push_back(symbol);
      } else {
        unknown_.Append(word.substr(begin, pos - begin), &after_unknown, ids);
      }
      previous = c;
    }
    flush();
  }

 private:
  int32_t Symbol(char32_t c) const {
    if (c < small_characters_.size()) return small_characters_[c];
    const auto it = characters_.find(c);
    return it == characters_.end() ? -1 : it->second;
  }

  void AddCharacter(std::string_view text, int32_t symbol) {
    size_t pos = 0;
    const char32_t c = NextCodePoint(text, &pos);
    if (c < small_characters_.size()) {
      small_characters_[c] = symbol;
    } else {
      characters_.emplace(c, symbol);
    }
  }

  // Gives symbols to the characters of a token that are no tokens.
  void AddParts(std::string_view text) {
    bool after_other = false;
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = NextCodePoint(text, &pos);
      if (c == kSpace && after_other) spaces_lead_ = false;
      after_other = c != kSpace;
      if (Symbol(c) >= 0) continue;
      const std::string_view character = text.substr(begin, pos - begin);
      const auto symbol = static_cast<int32_t>(vocabulary_->size() + lone_characters_.size());
      lone_characters_.emplace_back(character);
      symbols_.emplace(character, symbol);
      AddCharacter(character, symbol);
    }
  }

  void AddPairs(const std::vector<ScoredToken>& tokens) {
    std::vector<double> scores;
    for (const ScoredToken& token : tokens) scores.push_back(token.score);
    std::sort(scores.begin(), scores.end(), std::greater<double>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    for (const ScoredToken& token : tokens) {
      const auto rank = static_cast<uint32_t>(
          std::lower_bound(scores.begin(), scores.end(), token.score, std::greater<double>()) -
          scores.begin());
      const std::string_view text = vocabulary_->Text(token.id);
      for (size_t cut = Utf8Length(text, 0); cut < text.size(); cut += Utf8Length(text, cut)) {
        const auto left = symbols_.find(text.substr(0, cut));
        if (left == symbols_.end()) continue;
        const auto right = symbols_.find(text.substr(cut));
        if (right != symbols_.end()) merger_.Set(left->second, right->second, rank, token.id);
      }
    }
  }

  const Vocabulary* vocabulary_;
  UnknownTokens unknown_;
  PairMerger merger_;
  std::array<int32_t, 0x400> small_characters_;  // symbols; -1: none
  std::unordered_map<char32_t, int32_t> characters_;
  std::vector<std::string> lone_characters_;
  // No token has a U+2581 after something else, so nothing merges across one
  // and words can be merged one by one.
  bool spaces_lead_ = true;
  std::unordered_map<std::string_view, int32_t> symbols_;  // while building
};

}  // namespace

void UnknownTokens::Append(std::string_view character, bool* in_run,
                           std::vector<int32_t>* ids) const {
  if (has_bytes) {
    for (unsigned char byte : character) ids->push_back(bytes[byte]);
    *in_run = false;
  } else if (unk.has_value()) {
    if (!*in_run) ids->push_back(*unk);
    *in_run = true;
  }
}

std::unique_ptr<WordModel> NewSentencePieceBpe(const Vocabulary* vocabulary,
                                               const std::vector<ScoredToken>& tokens,
                                               UnknownTokens unknown) {
  return std::make_unique<SentencePieceBpe>(vocabulary, tokens, std::move(unknown));
}

}  // namespace hostler
