#include "engine/text/bpe.h"

#include <algorithm>
#include <array>
#include <limits>

#include "engine/text/merge_queue.h"
#include "engine/text/utf8.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

struct Merge {
  uint32_t rank = kNoRank;  // kNoRank: the pair does not merge
  int32_t id = -1;          // what it becomes
};

// (left, right) → merge; open addressing, a power of two at most half full.
class MergeTable {
 public:
  explicit MergeTable(size_t count) {
    size_t capacity = 16;
    while (capacity < 2 * count) capacity *= 2;
    slots_.resize(capacity);
  }

  // A pair given twice keeps the later merge.
  void Set(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[Locate(Key(left, right))];
    slot.key = Key(left, right);
    slot.merge = merge;
  }

  Merge Find(int32_t left, int32_t right) const { return slots_[Locate(Key(left, right))].merge; }

 private:
  struct Slot {
    uint64_t key = ~uint64_t{0};  // no pair has it: ids are not negative
    Merge merge;
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  size_t Locate(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t i = (key * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (slots_[i].key != key && slots_[i].key != ~uint64_t{0}) i = (i + 1) & mask;
    return i;
  }

  std::vector<Slot> slots_;
};

class Bpe : public WordModel {
 public:
  Bpe(const Vocabulary* vocabulary, size_t merges, BpeOptions options)
      : vocabulary_(vocabulary), options_(std::move(options)), table_(merges) {
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
    table_.Set(ids[0], ids[1], {rank, ids[2]});
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
    const size_t count = ids->size() - first;
    if (count <= kShortWord) {
      MergeShort(ids, first);
    } else {
      MergeLong(ids, first);
    }
  }

 private:
  // Up to here looking at every pair for every merge is the faster way.
  static constexpr size_t kShortWord = 32;

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

  void MergeShort(std::vector<int32_t>* ids, size_t first) const {
    int32_t* word = ids->data() + first;
    size_t count = ids->size() - first;
    Merge merges[kShortWord];
    for (size_t i = 0; i + 1 < count; ++i) merges[i] = table_.Find(word[i], word[i + 1]);
    while (count > 1) {
      size_t best = 0;
      for (size_t i = 1; i + 1 < count; ++i) {
        if (merges[i].rank < merges[best].rank) best = i;
      }
      if (merges[best].rank == kNoRank) break;
      word[best] = merges[best].id;
      for (size_t i = best + 1; i + 1 < count; ++i) {
        word[i] = word[i + 1];
        merges[i] = merges[i + 1];
      }
      --count;
      if (best > 0) merges[best - 1] = table_.Find(word[best - 1], word[best]);
      if (best + 1 < count) merges[best] = table_.Find(word[best], word[best + 1]);
    }
    ids->resize(first + count);
  }

  struct Link {
    int32_t id;  // -1: merged into the one before
    uint32_t previous;
    uint32_t next;
  };

  void MergeLong(std::vector<int32_t>* ids, size_t first) const {
    constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
    const size_t count = ids->size() - first;
    std::vector<Link> links(count);
    for (size_t i = 0; i < count; ++i) {
      links[i] = {(*ids)[first + i], i == 0 ? kNone : static_cast<uint32_t>(i - 1),
                  i + 1 == count ? kNone : static_cast<uint32_t>(i + 1)};
    }
    MergeQueue queue;
    const auto push = [&](uint32_t at) {
      const uint32_t next = links[at].next;
      if (next == kNone) return;
      const Merge merge = table_.Find(links[at].id, links[next].id);
      if (merge.rank != kNoRank) queue.Push(merge.rank, at);
    };
    for (uint32_t i = 0; i < count; ++i) push(i);
    uint32_t rank = 0, at = 0;
    while (queue.Pop(&rank, &at)) {
      Link& left = links[at];
      if (left.id < 0 || left.next == kNone) continue;
      Link& right = links[left.next];
      const Merge merge = table_.Find(left.id, right.id);
      if (merge.rank != rank) continue;  // the pair has changed since
      left.id = merge.id;
      right.id = -1;
      left.next = right.next;
      if (left.next != kNone) links[left.next].previous = at;
      if (left.previous != kNone) push(left.previous);
      push(at);
    }
    ids->resize(first);
    for (uint32_t i = 0; i != kNone; i = links[i].next) ids->push_back(links[i].id);
  }

  const Vocabulary* vocabulary_;
  BpeOptions options_;
  MergeTable table_;
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
