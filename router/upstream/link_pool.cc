#include "router/upstream/link_pool.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"

namespace hostler {
namespace {

using std::chrono::steady_clock;

constexpr size_t kMaxKept = 64;
// Below what servers commonly keep (uvicorn: 5 s; others more).
constexpr auto kKeepFor = std::chrono::seconds(4);
constexpr auto kResolvedFor = std::chrono::seconds(30);

}  // namespace

// Shared with the resolver, whose thread cannot be interrupted.
struct LinkPool::Lookup {
  explicit Lookup(const IoExecutor& executor) : resolver(executor), wakeup(executor) {}

  net::ip::basic_resolver<tcp, IoExecutor> resolver;
  Wakeup wakeup;
  Link::ErrorCode ec;
  Link::Endpoints endpoints;
};

std::unique_ptr<Link> LinkPool::TakeKept() {
  const auto now = steady_clock::now();
  while (!kept_.empty()) {
    std::unique_ptr<Link> link = std::move(kept_.back());
    kept_.pop_back();
    if (now - link->idle_since() < kKeepFor && !link->stale()) return link;
  }
  return nullptr;
}

void LinkPool::Keep(std::unique_ptr<Link> link) {
  const auto now = steady_clock::now();
  std::erase_if(kept_, [now](const auto& kept) { return now - kept->idle_since() >= kKeepFor; });
  if (kept_.size() >= kMaxKept) return;
  link->set_used(now);
  kept_.push_back(std::move(link));
}

Task<absl::StatusOr<Link::Endpoints>> LinkPool::Resolve(TimePoint deadline) {
  const auto now = steady_clock::now();
  if (!endpoints_.empty() && now - resolved_ < kResolvedFor) co_return endpoints_;
  Link::ErrorCode ec;
  const auto address = net::ip::make_address(url_.host, ec);
  if (!ec) {
    endpoints_ = {tcp::endpoint(address, static_cast<uint16_t>(url_.port))};
    resolved_ = now;
    co_return endpoints_;
  }
  const auto lookup = std::make_shared<Lookup>(executor_);
  lookup->resolver.async_resolve(url_.host, std::to_string(url_.port),
                                 [lookup](Link::ErrorCode ec, const auto& results) {
                                   lookup->ec = ec;
                                   for (const auto& entry : results) {
                                     lookup->endpoints.push_back(entry.endpoint());
                                   }
                                   lookup->wakeup.Wake();
                                 });
  const bool in_time = co_await lookup->wakeup.Wait(deadline);
  if (!in_time) {
    lookup->resolver.cancel();
    co_return absl::DeadlineExceededError(
        fmt::format("the name {} was not resolved in time", url_.host));
  }
  if (lookup->ec || lookup->endpoints.empty()) {
    co_return absl::UnavailableError(
        fmt::format("the name {} cannot be resolved: {}", url_.host, lookup->ec.message()));
  }
  endpoints_ = lookup->endpoints;
  resolved_ = steady_clock::now();
  co_return endpoints_;
}

}  // namespace hostler
