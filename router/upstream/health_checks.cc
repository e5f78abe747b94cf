#include "router/upstream/health_checks.h"

#include <utility>

#include "fmt/format.h"

namespace hostler {
namespace {

using std::chrono::steady_clock;

constexpr size_t kMaxBodyBytes = 1 << 20;

steady_clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

HealthChecks::HealthChecks(std::shared_ptr<UpstreamCore> core)
    : core_(std::move(core)), wakeup_(core_->pool().executor()) {}

void HealthChecks::Start() {
  net::co_spawn(core_->pool().executor(), Run(shared_from_this()), net::detached);
}

void HealthChecks::Stop() {
  net::post(core_->pool().executor(), [self = shared_from_this()] {
    self->stopped_ = true;
    if (self->call_ != nullptr) self->call_->Close();
    self->wakeup_.Wake();
  });
}

Task<void> HealthChecks::Run(std::shared_ptr<HealthChecks> self) {
  while (!self->stopped_) {
    const auto next = steady_clock::now() + Duration(self->core_->options().health.interval_s);
    co_await self->CheckOnce();
    co_await self->wakeup_.Wait(next);
  }
}

std::string HealthChecks::RequestText() const {
  const UpstreamUrl& url = core_->pool().url();
  const std::string& path = core_->options().health.path;
  std::string text =
      fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: hostler\r\nAccept: */*\r\n",
                  path.empty() ? url.base + "/models" : path, url.Authority());
  if (!core_->key().empty()) text += fmt::format("Authorization: Bearer {}\r\n", core_->key());
  return text + "\r\n";
}

Task<void> HealthChecks::CheckOnce() {
  const UpstreamOptions& options = core_->options();
  const auto deadline = steady_clock::now() + Duration(options.health.timeout_s);
  const std::string text = RequestText();
  const HttpCall::Deadlines deadlines = {Duration(options.connect_timeout_s), deadline};
  call_ = std::make_unique<HttpCall>(&core_->pool(), options.name);
  absl::Status status = co_await call_->Send(text, deadlines);
  std::string body;
  while (status.ok() && !call_->done() && body.size() < kMaxBodyBytes) {
    status = co_await call_->Read(deadline, &body);
  }
  const int code = status.ok() ? call_->status() : 0;
  call_.reset();
  if (stopped_) co_return;
  const bool ok = code >= 200 && code < 300;
  core_->OnCheck(ok, code != 0 ? fmt::format("HTTP {}", code) : std::string(status.message()));
}

}  // namespace hostler
