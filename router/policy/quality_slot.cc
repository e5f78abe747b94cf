#include "router/policy/quality_slot.h"

#include <algorithm>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace hostler {
namespace {

absl::StatusOr<std::vector<int>> FindColumns(const std::vector<TargetTerms>& terms,
                                             const std::vector<std::string>& models,
                                             const std::string& path) {
  std::vector<int> columns;
  for (const TargetTerms& each : terms) {
    const std::string& name = each.quality_as.empty() ? each.target : each.quality_as;
    const auto found = std::find(models.begin(), models.end(), name);
    columns.push_back(found == models.end() ? -1 : int(found - models.begin()));
    if (found != models.end() || each.quality.has_value()) continue;
    return absl::FailedPreconditionError(
        fmt::format("{} does not know \"{}\": give {} a quality_as of {}, or a quality", path, name,
                    each.target, fmt::join(models, ", ")));
  }
  return columns;
}

}  // namespace

std::shared_ptr<const LoadedQuality> QualitySlot::current() const {
  std::lock_guard lock(mutex_);
  return current_;
}

absl::Status QualitySlot::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

absl::StatusOr<uint64_t> QualitySlot::Load(const std::string& path) {
  const auto read = [&]() -> absl::StatusOr<std::shared_ptr<LoadedQuality>> {
    auto loaded = std::make_shared<LoadedQuality>();
    loaded->path = path;
    HOSTLER_ASSIGN_OR_RETURN(loaded->source, load_(path));
    HOSTLER_ASSIGN_OR_RETURN(loaded->columns, FindColumns(terms_, loaded->source->models(), path));
    const EmbeddingKind wanted = loaded->source->embeddings();
    loaded->no_embedding = WhyNotEmbedded(wanted, embeddings_);
    loaded->embeds = wanted.size > 0 && loaded->no_embedding.empty();
    return loaded;
  };
  const absl::StatusOr<std::shared_ptr<LoadedQuality>> loaded = read();
  std::lock_guard lock(mutex_);
  status_ = loaded.status();
  if (!loaded.ok()) return loaded.status();
  (*loaded)->version = ++versions_;
  before_ = std::exchange(current_, *loaded);
  return current_->version;
}

absl::StatusOr<uint64_t> QualitySlot::Rollback() {
  std::lock_guard lock(mutex_);
  if (before_ == nullptr) {
    return absl::FailedPreconditionError("there is no router file to go back to");
  }
  std::swap(current_, before_);
  status_ = absl::OkStatus();
  return current_->version;
}

}  // namespace hostler
