#include "engine/text/bpe.h"

#include <algorithm>
#include <array>

#include "engine/base/utf8.h"
#include "engine/text/pair_merger.h"
#include "fmt/format.h"

namespace hostler {
namespace {

class Bpe : public WordModel {
 public:
  Bpe(const Vocabulary* vocabulary, size_t merges, BpeOptions options)
      : vocabulary_(vocabulary), options_(std::move(options)), merger_(merges) {
    if (options_.unk_token.has_value()) unk_id_ = vocabulary_->Find(*options_.unk_token);
    for (char32_t c = 0; c < small_characters_.size(); ++c) {
      std::string text;
      AppendUtf8(c, &text);
      small_characters_[c] = vocabulary_->Find(text).value_or(-1);
    }
    if (options_.byte_fallback) {
      for (int b = 0; b < 256; ++b) {
        byte_ids_[b] = vocabulary_->Find(fmt::format("<0x{:02X}>", b)).value_or(-1);
      }
    }
  }

  absl::Status AddMerge(const std::string& left, const std::string& right, uint32_t rank) {
    const std::string& prefix = options_.continuing_subword_prefix;
    const size_t skip = right.starts_with(prefix) ? prefix.size() : 0;
    const std::string whole = left + right.substr(skip);
    int32_t ids[3];
    const std::string* parts[3] = {&left, &right, &whole};
    for (int i = 0; i < 3; ++i) {
      const std::optional<int32_t> id = vocabulary_->Find(*parts[i]);
      if (!id.has_value()) {
        return absl::InvalidArgumentError(fmt::format(
            "merge {} ('{}' + '{}'): '{}' is not in the vocabulary", rank, left, right, *parts[i]));
      }
      ids[i] = *id;
    }
    merger_.Set(ids[0], ids[1], rank, ids[2]);
    return absl::OkStatus();
  }

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    if (options_.ignore_merges) {
      if (const auto whole = vocabulary_->Find(word); whole.has_value()) {
        ids->push_back(*whole);
        return;
      }
    }
    const size_t first = ids->size();
    AppendCharacters(word, ids);
    merger_.Merge(ids, first);
  }

 private:
  int32_t CharacterId(std::string_view character, bool is_first, bool is_last) const {
    const bool prefixed = !is_first && !options_.continuing_subword_prefix.empty();
    const bool suffixed = is_last && !options_.end_of_word_suffix.empty();
    if (prefixed || suffixed) {
      std::string text(prefixed ? options_.continuing_subword_prefix : "");
      text.append(character);
      if (suffixed) text.append(options_.end_of_word_suffix);
      return vocabulary_->Find(text).value_or(-1);
    }
    size_t pos = 0;
    const char32_t c = NextCodePoint(character, &pos);
    if (c < small_characters_.size()) return small_characters_[c];
    return vocabulary_->Find(character).value_or(-1);
  }

  bool AppendBytes(std::string_view character, std::vector<int32_t>* ids) const {
    const auto missing = [this](unsigned char b) { return byte_ids_[b] < 0; };
    if (std::any_of(character.begin(), character.end(), missing)) return false;
    for (unsigned char b : character) ids->push_back(byte_ids_[b]);
    return true;
  }

  void AppendCharacters(std::string_view word, std::vector<int32_t>* ids) const {
    bool after_unk = false;
    for (size_t pos = 0; pos < word.size();) {
      const size_t length = Utf8Length(word, pos);
      const std::string_view character = word.substr(pos, length);
      const int32_t id = CharacterId(character, pos == 0, pos + length == word.size());
      pos += length;
      if (id >= 0) {
        ids->push_back(id);
        after_unk = false;
      } else if (options_.byte_fallback && AppendBytes(character, ids)) {
        after_unk = false;
      } else if (unk_id_.has_value()) {
        if (!(after_unk && options_.fuse_unk)) ids->push_back(*unk_id_);
        after_unk = true;
      }
    }
  }

  const Vocabulary* vocabulary_;
  BpeOptions options_;
  PairMerger merger_;
  std::optional<int32_t> unk_id_;
  std::array<int32_t, 0x400> small_characters_;  // ids; -1: no token
  std::array<int32_t, 256> byte_ids_{};
};

}  // namespace

absl::StatusOr<std::unique_ptr<WordModel>> NewBpe(
    const Vocabulary* vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
    BpeOptions options) {
  if (options.unk_token.has_value() && !vocabulary->Find(*options.unk_token).has_value()) {
    return absl::InvalidArgumentError(
        fmt::format("unk_token '{}' is not in the vocabulary", *options.unk_token));
  }
  auto model = std::make_unique<Bpe>(vocabulary, merges.size(), std::move(options));
  for (size_t i = 0; i < merges.size(); ++i) {
    if (absl::Status status =
            model->AddMerge(merges[i].first, merges[i].second, static_cast<uint32_t>(i));
        !status.ok()) {
      return status;
    }
  }
  return model;
}

}  // namespace hostler
