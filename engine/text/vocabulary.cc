#include "engine/text/vocabulary.h"

#include <utility>

#include "fmt/format.h"

namespace hostler {

absl::Status Vocabulary::Add(std::string text, int32_t id) {
  if (Has(id)) {
    return absl::InvalidArgumentError(
        fmt::format("vocabulary: id {} belongs to both '{}' and '{}'", id, Text(id), text));
  }
  const auto [it, inserted] = ids_.try_emplace(std::move(text), id);
  if (!inserted) {
    return absl::InvalidArgumentError(
        fmt::format("vocabulary: '{}' has both id {} and id {}", it->first, it->second, id));
  }
  SetText(id, &it->first);
  return absl::OkStatus();
}

void Vocabulary::AddDuplicate(const std::string& text, int32_t id) {
  SetText(id, &ids_.try_emplace(text, id).first->first);
}

void Vocabulary::SetText(int32_t id, const std::string* text) {
  if (id >= static_cast<int32_t>(tokens_.size())) tokens_.resize(static_cast<size_t>(id) + 1);
  tokens_[id] = text;
}

std::optional<int32_t> Vocabulary::Find(std::string_view text) const {
  const auto it = ids_.find(text);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

bool Vocabulary::Has(int32_t id) const { return id >= 0 && id < size() && tokens_[id] != nullptr; }

std::string_view Vocabulary::Text(int32_t id) const {
  return Has(id) ? std::string_view(*tokens_[id]) : std::string_view();
}

}  // namespace hostler
