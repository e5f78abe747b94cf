#include "engine/text/pipeline_tokenizer.h"

#include <algorithm>
#include <utility>

#include "engine/base/utf8.h"

namespace hostler {
namespace {

class PipelineTokenizer : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
    const Vocabulary& vocabulary = *parts_.vocabulary;
    const int size = std::max(vocabulary.size(), parts_.extra.size());
    bytes_.resize(size);
    special_.resize(size);
    for (int id = 0; id < vocabulary.size(); ++id) {
      if (vocabulary.Has(id)) bytes_[id] = parts_.decoder.Bytes(vocabulary.Text(id));
    }
    for (const AddedToken& token : parts_.added) {
      bytes_[token.id] =
          parts_.decoder.for_added ? parts_.decoder.Bytes(token.content) : token.content;
      special_[token.id] = token.special;
      AddMatchers(token);
    }
  }

  int vocab_size() const override { return static_cast<int>(bytes_.size()); }

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override {
    std::string mended;
    if (!IsUtf8(text)) {
      mended = ReplaceBadBytes(text);
      text = mended;
    }
    std::vector<int32_t> ids;
    if (options.add_special) ids = parts_.prefix;
    const Matchers& matchers = options.parse_special ? all_ : ordinary_;
    std::vector<Segment> segments;
    matchers.raw.Split(text, &segments);
    for (const Segment& segment : segments) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
      } else {
        EncodeSegment(segment.text, matchers, segment.text.data() == text.data(), &ids);
      }
    }
    if (options.add_special) {
      ids.insert(ids.end(), parts_.suffix.begin(), parts_.suffix.end());
    }
    return ids;
  }

  std::string TokenBytes(int32_t id) const override {
    return id >= 0 && id < vocab_size() ? bytes_[id] : std::string();
  }

  bool IsSpecial(int32_t id) const override { return id >= 0 && id < vocab_size() && special_[id]; }

  std::optional<int32_t> FindToken(std::string_view text) const override {
    const std::optional<int32_t> id = parts_.vocabulary->Find(text);
    return id.has_value() ? id : parts_.extra.Find(text);
  }

  TextEdges edges() const override { return parts_.decoder.edges; }

  std::optional<int32_t> bos_id() const override { return parts_.bos_id; }
  std::optional<int32_t> eos_id() const override { return parts_.eos_id; }

 private:
  struct Matchers {
    AddedTokenMatcher raw;         // for the text as given
    AddedTokenMatcher normalized;  // for what is left, normalized
  };

  void AddMatchers(const AddedToken& token) {
    const bool normalized = token.normalized && parts_.normalizer != nullptr;
    const std::string content =
        normalized ? parts_.normalizer->Apply(token.content) : token.content;
    for (Matchers* matchers : {&all_, &ordinary_}) {
      if (matchers == &ordinary_ && token.special) continue;
      (token.normalized ? matchers->normalized : matchers->raw).Add(token, content);
    }
  }

  void EncodeSegment(std::string_view text, const Matchers& matchers, bool at_start,
                     std::vector<int32_t>* ids) const {
    std::string normalized;
    if (parts_.normalizer != nullptr) {
      normalized = parts_.normalizer->Apply(std::string(text));
      if (!normalized.empty()) normalized.insert(0, parts_.text_prefix);
      text = normalized;
    }
    std::vector<Segment> segments;
    matchers.normalized.Split(text, &segments);
    for (const Segment& segment : segments) {
      if (segment.id >= 0) {
        ids->push_back(segment.id);
        continue;
      }
      Words words{.text = std::string(segment.text),
                  .parts = {{0, segment.text.size()}},
                  .at_start = at_start && segment.text.data() == text.data()};
      if (parts_.pre_tokenizer != nullptr) parts_.pre_tokenizer->Apply(&words);
      for (const TextRange& part : words.parts) {
        parts_.model->Encode(std::string_view(words.text).substr(part.begin, part.end - part.begin),
                             ids);
      }
    }
  }

  TokenizerParts parts_;
  std::vector<std::string> bytes_;
  std::vector<bool> special_;
  Matchers all_;       // every added token
  Matchers ordinary_;  // those that are not special
};

}  // namespace

std::unique_ptr<Tokenizer> NewPipelineTokenizer(TokenizerParts parts) {
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace hostler
