#include "engine/text/wordpiece.h"

#include <string>
#include <string_view>

#include "engine/base/utf8.h"

namespace hostler {
namespace {

constexpr std::string_view kWordStart = "\xE2\x96\x81";
constexpr size_t kMaxCharacters = 100;

class WordPiece : public WordModel {
 public:
  WordPiece(const Vocabulary* vocabulary, std::optional<int32_t> unk)
      : vocabulary_(vocabulary), unk_(unk) {}

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    const size_t first = ids->size();
    if (Cut(word, ids)) return;
    ids->resize(first);
    if (unk_.has_value()) ids->push_back(*unk_);
  }

 private:
  bool Cut(std::string_view word, std::vector<int32_t>* ids) const {
    if (word.size() > kMaxCharacters * 4) return false;
    std::string text(kWordStart);
    text += word;
    std::vector<size_t> ends;  // of the word's characters
    for (size_t pos = kWordStart.size(); pos < text.size();) {
      pos += Utf8Length(text, pos);
      ends.push_back(pos);
    }
    if (ends.size() > kMaxCharacters) return false;
    size_t begin = 0;
    for (size_t done = 0; done < ends.size();) {
      // Spelt like the beginning of a word, which this is not.
      if (done > 0 && std::string_view(text).substr(begin).starts_with(kWordStart)) return false;
      size_t end = ends.size();
      std::optional<int32_t> id;
      for (; end > done && !id.has_value(); --end) {
        id = vocabulary_->Find(std::string_view(text).substr(begin, ends[end - 1] - begin));
      }
      if (!id.has_value()) return false;
      ids->push_back(*id);
      done = end + 1;
      begin = ends[end];
    }
    return true;
  }

  const Vocabulary* vocabulary_;
  std::optional<int32_t> unk_;
};

}  // namespace

std::unique_ptr<WordModel> NewWordPiece(const Vocabulary* vocabulary, std::optional<int32_t> unk) {
  return std::make_unique<WordPiece>(vocabulary, unk);
}

}  // namespace hostler
