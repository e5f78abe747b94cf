#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/utf8.h"
#include "engine/text/byte_trie.h"
#include "engine/text/sentencepiece.h"

namespace hostler {
namespace {

// What an unknown character costs more than the worst token.
constexpr double kUnknownPenalty = 10;

// The cut of a text whose tokens' scores have the largest sum (Viterbi).
class Unigram : public WordModel {
 public:
  Unigram(const Vocabulary* vocabulary, const std::vector<ScoredToken>& tokens,
          UnknownTokens unknown)
      : unknown_(std::move(unknown)), scores_(vocabulary->size()) {
    double worst = tokens.empty() ? 0 : std::numeric_limits<double>::max();
    for (const ScoredToken& token : tokens) {
      trie_.Add(vocabulary->Text(token.id), token.id);
      scores_[token.id] = token.score;
      worst = std::min(worst, token.score);
    }
    unknown_score_ = worst - kUnknownPenalty;
  }

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    std::vector<Node> best(word.size() + 1);
    for (size_t begin = 0; begin < word.size();) {
      const size_t length = Utf8Length(word, begin);
      bool covered = false;
      uint32_t node = 0;
      for (size_t end = begin; end < word.size();) {
        node = trie_.Next(node, static_cast<unsigned char>(word[end++]));
        if (node == 0) break;
        const int32_t id = trie_.Id(node);
        if (id < 0) continue;
        Offer(begin, best[begin].score + scores_[id], id, &best[end]);
        covered = covered || end - begin == length;
      }
      if (!covered) {
        Offer(begin, best[begin].score + unknown_score_, kUnknown, &best[begin + length]);
      }
      begin += length;
    }
    Append(word, best, ids);
  }

 private:
  static constexpr int32_t kNothing = -2;
  static constexpr int32_t kUnknown = -1;

  // The best cut of what ends here.
  struct Node {
    double score = 0;
    int32_t id = kNothing;  // of the last token
    size_t begin = 0;       // where it begins
  };

  static void Offer(size_t begin, double score, int32_t id, Node* node) {
    if (node->id == kNothing || score > node->score) *node = {score, id, begin};
  }

  void Append(std::string_view word, const std::vector<Node>& best,
              std::vector<int32_t>* ids) const {
    std::vector<size_t> ends;
    for (size_t end = word.size(); end > 0; end = best[end].begin) ends.push_back(end);
    bool after_unknown = false;
    for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
      const Node& node = best[*end];
      if (node.id == kUnknown) {
        unknown_.Append(word.substr(node.begin, *end - node.begin), &after_unknown, ids);
      } else {
        ids->push_back(node.id);
        after_unknown = false;
      }
    }
  }

  UnknownTokens unknown_;
  ByteTrie trie_;
  std::vector<double> scores_;  // by id
  double unknown_score_;
};

}  // namespace

std::unique_ptr<WordModel> NewUnigram(const Vocabulary* vocabulary,
                                      const std::vector<ScoredToken>& tokens,
                                      UnknownTokens unknown) {
  return std::make_unique<Unigram>(vocabulary, tokens, std::move(unknown));
}

}  // namespace hostler
