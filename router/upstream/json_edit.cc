#include "router/upstream/json_edit.h"

#include <algorithm>

#include "engine/base/json.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// ParseJson skips it too.
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

// Walks over JSON that was checked before; every step is bounded all the same.
class Walker {
 public:
  explicit Walker(std::string_view text) : text_(text) {}

  size_t position() const { return at_; }
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Take(char c) {
    if (Peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  void SkipSpace() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

  // The string here, with its quotes; "" when there is none.
  std::string_view TakeString() {
    const size_t begin = at_;
    if (!Take('"')) return "";
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    if (at_ >= text_.size()) return "";
    ++at_;
    return text_.substr(begin, at_ - begin);
  }

  bool SkipValue() {
    int depth = 0;
    do {
      SkipSpace();
      const char c = Peek();
      if (c == '"') {
        if (TakeString().empty()) return false;
      } else if (c == '{' || c == '[') {
        ++depth;
        ++at_;
      } else if (c == '}' || c == ']') {
        --depth;
        ++at_;
      } else if (depth > 0 && (c == ',' || c == ':')) {
        ++at_;
      } else {
        const size_t end = text_.find_first_of(",:{}[]\" \t\r\n", at_);
        if (end == text_.npos || end == at_) return false;
        at_ = end;
      }
    } while (depth > 0 && at_ < text_.size());
    return depth == 0;
  }

 private:
  const std::string_view text_;
  size_t at_ = 0;
};

bool IsKey(std::string_view quoted, std::string_view key) {
  if (quoted.find('\\') == quoted.npos) return quoted.substr(1, quoted.size() - 2) == key;
  const absl::StatusOr<Json> parsed = ParseJson(quoted);
  return parsed.ok() && *parsed == key;
}

}  // namespace

absl::StatusOr<std::string> EditJson(std::string_view object, const std::vector<JsonEdit>& edits) {
  const absl::Status broken = absl::InvalidArgumentError("the body must be a JSON object");
  if (object.starts_with(kByteOrderMark)) object.remove_prefix(kByteOrderMark.size());
  Walker walker(object);
  walker.SkipSpace();
  if (!walker.Take('{')) return broken;
  const size_t first_member = walker.position();
  std::vector<bool> found(edits.size());
  std::string members;  // as edited, from first_member on
  size_t copied = first_member;
  walker.SkipSpace();
  const bool empty = walker.Peek() == '}';
  while (walker.Peek() != '}') {
    const std::string_view key = walker.TakeString();
    walker.SkipSpace();
    if (key.empty() || !walker.Take(':')) return broken;
    walker.SkipSpace();
    const size_t value = walker.position();
    if (!walker.SkipValue()) return broken;
    for (size_t i = 0; i < edits.size(); ++i) {
      if (!IsKey(key, edits[i].key)) continue;
      found[i] = true;
      members += object.substr(copied, value - copied);
      members += edits[i].value;
      copied = walker.position();
    }
    walker.SkipSpace();
    if (!walker.Take(',') && walker.Peek() != '}') return broken;
    walker.SkipSpace();
  }
  std::string result(object.substr(0, first_member));
  for (size_t i = 0; i < edits.size(); ++i) {
    if (found[i]) continue;
    AppendJsonString(edits[i].key, &result);
    result += ':' + edits[i].value + ',';
  }
  if (empty && result.back() == ',') result.pop_back();
  result += members;
  result += object.substr(copied);
  return result;
}

}  // namespace hostler
