// LinkPool: the connections to one upstream.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/net/wakeup.h"
#include "router/upstream/link.h"
#include "router/upstream/url.h"

namespace hostler {

// Used by the executor's thread.
class LinkPool {
 public:
  using TimePoint = Link::TimePoint;

  // `tls` null: plain TCP; else it outlives the pool and its links.
  LinkPool(const IoExecutor& executor, const UpstreamUrl& url, net::ssl::context* tls)
      : executor_(executor), url_(url), tls_(tls) {}

  // One that was kept, or null.
  std::unique_ptr<Link> TakeKept();
  // For TakeKept, later.
  void Keep(std::unique_ptr<Link> link);
  void Clear() { kept_.clear(); }

  std::unique_ptr<Link> NewLink() const {
    return std::make_unique<Link>(executor_, tls_, url_.host);
  }
  // The host's addresses, looked up anew when they are old. Errors: in words;
  // DeadlineExceeded.
  Task<absl::StatusOr<Link::Endpoints>> Resolve(TimePoint deadline);
  // They were of no use.
  void ForgetAddresses() { endpoints_.clear(); }

  const UpstreamUrl& url() const { return url_; }
  const IoExecutor& executor() const { return executor_; }

 private:
  struct Lookup;

  const IoExecutor executor_;
  const UpstreamUrl url_;
  net::ssl::context* const tls_;
  std::vector<std::unique_ptr<Link>> kept_;  // the last used at the end
  Link::Endpoints endpoints_;
  TimePoint resolved_{};
};

}  // namespace hostler
