// Which experts a model used most, kept in a file from run to run, so that the
// next run starts with them in its cache.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/policy.h"
#include "engine/weights/source.h"

namespace hostler {

// 32 characters that tell models apart: a hash of the tensors' names, types and
// shapes and of what the vectors among them (norms) hold, which fine-tuning
// changes. Reads about as much as one norm takes for each layer.
std::string FingerprintModel(const WeightSource& weights);

// A popularity file: a header with the model's fingerprint and the shape, a rate
// in f32 for each expert, and a checksum. Replaces `path` in one go, by way of
// "PATH.new". Errors: PermissionDenied, NotFound, ResourceExhausted, Unavailable.
absl::Status WritePopularity(const std::string& path, const Popularity& popularity,
                             std::string_view fingerprint);

// Errors: NotFound; InvalidArgument for what is no popularity file; DataLoss for
// a damaged one; FailedPrecondition for one of another model.
absl::StatusOr<Popularity> ReadPopularity(const std::string& path, const PolicyShape& shape,
                                          std::string_view fingerprint);

// Experts that were used at all, most popular first.
std::vector<ExpertKey> MostPopular(const Popularity& popularity);

// Reads the file at the start of a run and keeps it up to date.
class WarmStart {
 public:
  struct Options {
    std::string path;
    std::string fingerprint;
    PolicyShape shape;
    std::chrono::milliseconds interval = std::chrono::minutes(5);
    // Told, once each, why a run starts cold or its popularity is not saved. Any
    // thread. Not null.
    std::function<void(const std::string& text)> warn;
  };

  // Reads what the last run left. A file that is not ours is never written to.
  explicit WarmStart(Options options);
  // Saves for the last time.
  ~WarmStart();

  // Of the last run; empty: there is none to use.
  const Popularity& last() const { return last_; }

  // From now on saves what `now` returns, from a thread of its own. `now` may be
  // called until the destructor is done.
  void KeepSaving(std::function<Popularity()> now);
  // At once. Saves nothing when nothing has changed. Any thread.
  void Save();

 private:
  void Run();

  const Options options_;
  Popularity last_;
  bool writable_ = true;
  std::function<Popularity()> now_;

  std::mutex save_mutex_;  // one at a time; guards what follows
  std::vector<float> saved_;
  bool failed_ = false;  // to save, and said so

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace hostler
