// QualitySlot: the router file that serves now, exchanged without a restart.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/quality/quality_source.h"

namespace hostler {

// Where a target's quality comes from.
struct TargetTerms {
  std::string target;
  std::string quality_as = "";  // the model of the router file that it is taken for; "": target
  std::optional<double> quality =
      std::nullopt;  // where there is no router file, or one that lacks the model
};

// A router file as one virtual model uses it. Immutable.
struct LoadedQuality {
  uint64_t version = 0;  // counts up from 1
  std::string path;
  std::shared_ptr<const QualitySource> source;
  std::vector<int> columns;  // of source->models(), for each target; -1: its fixed quality
  bool embeds = false;       // prompts are to be embedded for it
  std::string no_embedding;  // why not, though it was trained with embeddings; else ""
};

// Thread-safe.
class QualitySlot {
 public:
  // `path`: the file that is configured. `embeddings`: those there are.
  QualitySlot(std::vector<TargetTerms> terms, std::string path, LoadQuality load,
              EmbeddingKind embeddings = {})
      : terms_(std::move(terms)),
        path_(std::move(path)),
        load_(std::move(load)),
        embeddings_(std::move(embeddings)) {}

  // Null: no file could be read yet.
  std::shared_ptr<const LoadedQuality> current() const;
  // Why the last Load failed; OK: it did not.
  absl::Status status() const;

  // Reads `path` and serves it; returns its version. Errors: those of reading;
  // FailedPrecondition when it knows a target's model not and the target has no
  // quality of its own. What served before does so still then.
  absl::StatusOr<uint64_t> Load(const std::string& path);
  absl::StatusOr<uint64_t> Reload() { return Load(path_); }
  // Back to what served before; the next time forth again. Errors:
  // FailedPrecondition when there is none.
  absl::StatusOr<uint64_t> Rollback();

  const std::vector<TargetTerms>& terms() const { return terms_; }

 private:
  const std::vector<TargetTerms> terms_;
  const std::string path_;
  const LoadQuality load_;
  const EmbeddingKind embeddings_;
  mutable std::mutex mutex_;  // guards all below
  std::shared_ptr<const LoadedQuality> current_, before_;
  uint64_t versions_ = 0;
  absl::Status status_;
};

}  // namespace hostler
