#include "engine/text/decoder.h"

#include <memory>
#include <optional>
#include <utility>

#include "engine/base/status.h"
#include "engine/text/byte_level.h"
#include "engine/text/json_fields.h"
#include "engine/text/regex.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using nlohmann::json;
using Step = TokenDecoder::Step;

constexpr std::string_view kMetaspace = "\xE2\x96\x81";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// "<0x0A>" is the byte 10.
std::string ByteOfToken(std::string text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return text;
  const int high = HexDigit(text[3]), low = HexDigit(text[4]);
  if (high < 0 || low < 0) return text;
  return std::string(1, static_cast<char>(high << 4 | low));
}

// No token may grow beyond this.
size_t MostTokenBytes(size_t bytes) { return 1024 + 16 * bytes; }

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  if (from.empty()) return std::string(text);
  const size_t most = MostTokenBytes(text.size());
  std::string out;
  while (true) {
    const size_t at = out.size() > most ? std::string_view::npos : text.find(from);
    out.append(text.substr(0, at));
    if (at == std::string_view::npos) return out;
    out.append(to);
    text.remove_prefix(at + from.size());
  }
}

Step Replacing(std::string from, std::string to) {
  return [from = std::move(from), to = std::move(to)](std::string text) {
    return ReplaceAll(text, from, to);
  };
}

// English as BERT's users want it read.
std::string CleanUp(std::string text) {
  static constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRules) text = ReplaceAll(text, from, to);
  return text;
}

class Parser {
 public:
  absl::StatusOr<TokenDecoder> Parse(const json& spec) {
    decoder_.for_added = true;
    HOSTLER_RETURN_IF_ERROR(ParseStep(spec, 0));
    return std::move(decoder_);
  }

 private:
  absl::Status ParseStep(const json& spec, int depth) {
    if (depth > kMaxComponentDepth) return absl::InvalidArgumentError("decoder: nested too deep");
    HOSTLER_ASSIGN_OR_RETURN(const std::string type, StringField(spec, "type", "decoder"));
    const std::string where = "decoder " + type;
    if (type == "Sequence") {
      HOSTLER_ASSIGN_OR_RETURN(const json* list, ArrayField(spec, "decoders", where));
      for (const json& item : *list) HOSTLER_RETURN_IF_ERROR(ParseStep(item, depth + 1));
      return absl::OkStatus();
    }
    if (type == "Fuse") {
      fused_ = true;
      return absl::OkStatus();
    }
    if (type == "ByteFallback") return Add(ByteOfToken);
    if (type == "ByteLevel") {
      // Added tokens are no bytes, though one may be spelt with such characters.
      decoder_.for_added = false;
      return Add([](std::string text) { return ByteLevelToBytes(text).value_or(text); });
    }
    if (type == "Replace") return ParseReplace(spec, where);
    if (type == "Metaspace") return ParseMetaspace(spec, where);
    if (type == "WordPiece") return ParseWordPiece(spec, where);
    if (type == "BPEDecoder") {
      HOSTLER_ASSIGN_OR_RETURN(std::string suffix, StringField(spec, "suffix", where, "</w>"));
      decoder_.edges.drop_last_space = true;
      return Add(Replacing(std::move(suffix), " "));
    }
    if (type == "Strip") return ParseStrip(spec, where);
    return absl::UnimplementedError(fmt::format("{} is not supported", where));
  }

  absl::Status Add(Step step) {
    if (decoder_.steps.size() >= kMaxComponents) {
      return absl::InvalidArgumentError(fmt::format("decoder: more than {} steps", kMaxComponents));
    }
    decoder_.steps.push_back(std::move(step));
    return absl::OkStatus();
  }

  absl::Status ParseReplace(const json& spec, const std::string& where) {
    const json& pattern = FieldOrNull(spec, "pattern");
    HOSTLER_ASSIGN_OR_RETURN(std::string content, StringField(spec, "content", where));
    if (FieldOrNull(pattern, "Regex").is_null()) {
      HOSTLER_ASSIGN_OR_RETURN(std::string literal, StringField(pattern, "String", where));
      return Add(Replacing(std::move(literal), std::move(content)));
    }
    HOSTLER_ASSIGN_OR_RETURN(const std::string source, StringField(pattern, "Regex", where));
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Regex> compiled, Regex::Compile(source));
    return Add([regex = std::shared_ptr<Regex>(std::move(compiled)),
                content = std::move(content)](const std::string& text) {
      return regex->ReplaceAll(text, content, MostTokenBytes(text.size()));
    });
  }

  absl::Status ParseMetaspace(const json& spec, const std::string& where) {
    HOSTLER_ASSIGN_OR_RETURN(std::string replacement,
                             StringField(spec, "replacement", where, kMetaspace));
    HOSTLER_ASSIGN_OR_RETURN(const bool prefix, BoolField(spec, "add_prefix_space", where, true));
    HOSTLER_ASSIGN_OR_RETURN(const std::string scheme, StringField(spec, "prepend_scheme", where,
                                                                   prefix ? "always" : "never"));
    if (scheme != "never") decoder_.edges.first = FirstSpace::kDropAllOfFirstToken;
    return Add(Replacing(std::move(replacement), " "));
  }

  absl::Status ParseWordPiece(const json& spec, const std::string& where) {
    HOSTLER_ASSIGN_OR_RETURN(std::string prefix, StringField(spec, "prefix", where, "##"));
    HOSTLER_ASSIGN_OR_RETURN(const bool clean_up, BoolField(spec, "cleanup", where, true));
    decoder_.edges.first = FirstSpace::kDropOfFirstToken;
    return Add([prefix = std::move(prefix), clean_up](std::string text) {
      text = text.starts_with(prefix) ? text.substr(prefix.size()) : " " + text;
      return clean_up ? CleanUp(std::move(text)) : text;
    });
  }

  absl::Status ParseStrip(const json& spec, const std::string& where) {
    HOSTLER_ASSIGN_OR_RETURN(const std::string content, StringField(spec, "content", where));
    HOSTLER_ASSIGN_OR_RETURN(const int start, CountField(spec, "start", where));
    HOSTLER_ASSIGN_OR_RETURN(const int stop, CountField(spec, "stop", where));
    if (!fused_) {
      return Add([content, start, stop](const std::string& token) {
        std::string_view text = token;
        for (int i = 0; i < start && !content.empty() && text.starts_with(content); ++i) {
          text.remove_prefix(content.size());
        }
        for (int i = 0; i < stop && !content.empty() && text.ends_with(content); ++i) {
          text.remove_suffix(content.size());
        }
        return std::string(text);
      });
    }
    // Of the whole text.
    if (start == 0 && stop == 0) return absl::OkStatus();
    if (content != " " || start != 1 || stop != 0) {
      return absl::UnimplementedError(
          fmt::format("{} of more than one space at the beginning", where));
    }
    decoder_.edges.first = FirstSpace::kDropOfFirstToken;
    return absl::OkStatus();
  }

  static absl::StatusOr<int> CountField(const json& spec, std::string_view field,
                                        const std::string& where) {
    const json& value = FieldOrNull(spec, field);
    if (value.is_number_integer() && value >= 0 && value <= 1000) return value.get<int>();
    return absl::InvalidArgumentError(fmt::format("{}: '{}' must be from 0 to 1000", where, field));
  }

  TokenDecoder decoder_;
  bool fused_ = false;
};

}  // namespace

std::string TokenDecoder::Bytes(std::string_view token) const {
  std::string text(token);
  const size_t most = MostTokenBytes(text.size());
  for (const Step& step : steps) {
    text = step(std::move(text));
    if (text.size() > most) return std::string(token);
  }
  return text;
}

TokenDecoder ByteLevelDecoder() {
  TokenDecoder decoder;
  decoder.steps = {[](std::string text) { return ByteLevelToBytes(text).value_or(text); }};
  return decoder;
}

TokenDecoder SentencePieceDecoder() {
  TokenDecoder decoder;
  decoder.steps = {Replacing(std::string(kMetaspace), " "), ByteOfToken};
  return decoder;
}

absl::StatusOr<TokenDecoder> ParseDecoder(const json& spec) {
  if (!spec.is_null()) return Parser().Parse(spec);
  TokenDecoder decoder;
  decoder.for_added = true;
  decoder.steps = {[](const std::string& text) { return " " + text; }};
  decoder.edges.first = FirstSpace::kDropOfFirstToken;
  return decoder;
}

}  // namespace hostler
