#include "server/commands/text_streams.h"

#include <iterator>
#include <vector>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "server/commands/token_list.h"

namespace hostler {
namespace {

using nlohmann::ordered_json;

std::string ReadAll(std::istream& in) {
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

std::string JsonIds(const std::vector<int32_t>& ids) { return DumpLine(ordered_json(ids)); }

std::string JsonText(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  return DumpLine(ordered_json(tokenizer.Decode(ids, /*skip_special=*/false)));
}

// One line of --jsonl, in either direction.
absl::StatusOr<std::string> TranslateLine(const Tokenizer& tokenizer,
                                          const TokenizeOptions& options, const std::string& line) {
  if (options.decode) {
    HOSTLER_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseTokenIds(line));
    return JsonText(tokenizer, ids);
  }
  const auto text = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!text.is_string()) return absl::InvalidArgumentError("not a JSON string");
  return JsonIds(tokenizer.Encode(text.get_ref<const std::string&>(), options.encode));
}

}  // namespace

std::string DumpLine(const ordered_json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, ordered_json::error_handler_t::replace);
}

absl::Status TokenizeStream(const Tokenizer& tokenizer, const TokenizeOptions& options,
                            std::istream& in, std::ostream& out) {
  if (options.lines) {
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
      const absl::StatusOr<std::string> result = TranslateLine(tokenizer, options, line);
      if (!result.ok()) {
        return absl::InvalidArgumentError(
            fmt::format("line {}: {}", number, std::string(result.status().message())));
      }
      out << *result << '\n';
    }
    return absl::OkStatus();
  }
  if (options.decode) {
    HOSTLER_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseTokenIds(ReadAll(in)));
    if (options.json) {
      out << JsonText(tokenizer, ids) << '\n';
    } else {
      out << tokenizer.Decode(ids, /*skip_special=*/false);
    }
    return absl::OkStatus();
  }
  const std::vector<int32_t> ids = tokenizer.Encode(ReadAll(in), options.encode);
  out << (options.json ? JsonIds(ids) : fmt::format("{}", fmt::join(ids, " "))) << '\n';
  return absl::OkStatus();
}

absl::StatusOr<std::string> RenderVariables(const ChatTemplate& chat_template,
                                            const std::string& variables) {
  const auto json = ordered_json::parse(variables, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("the input is not a JSON object");
  return chat_template.Render(json);
}

void RenderLines(const ChatTemplate& chat_template, std::istream& in, std::ostream& out) {
  std::string line;
  while (std::getline(in, line)) {
    const absl::StatusOr<std::string> text = RenderVariables(chat_template, line);
    const ordered_json result = text.ok()
                                    ? ordered_json{{"text", *text}}
                                    : ordered_json{{"error", std::string(text.status().message())}};
    out << DumpLine(result) << '\n';
  }
}

}  // namespace hostler
