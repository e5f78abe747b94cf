#include "server/route_state.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "engine/base/checksum.h"
#include "engine/base/json.h"
#include "engine/base/replace_file.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace hostler {
namespace {

constexpr char kHead[] = "hostler-route-state 1 ";

// Errors: InvalidArgument saying what is wrong.
absl::StatusOr<Json> Read(std::string_view text) {
  const size_t end = text.find('\n');
  if (!text.starts_with(kHead) || end == std::string_view::npos) {
    return absl::InvalidArgumentError("it is no state of this version");
  }
  const std::string_view sum = text.substr(sizeof(kHead) - 1, end - sizeof(kHead) + 1);
  const std::string_view body = text.substr(end + 1);
  if (sum != ChecksumText(Checksum(body))) {
    return absl::InvalidArgumentError("its checksum is wrong");
  }
  return ParseJson(body);
}

}  // namespace

RouteState::RouteState(std::string path,
                       std::vector<std::pair<std::string, ScoredRoutingPolicy*>> policies,
                       RouteMetrics* metrics)
    : path_(std::move(path)), policies_(std::move(policies)), metrics_(metrics) {}

RouteState::~RouteState() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::Status RouteState::Load() {
  std::ifstream in(path_, std::ios::binary);
  if (!in) {
    metrics_->SetStateOk(true);
    return absl::OkStatus();
  }
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const absl::StatusOr<Json> state = Read(text);
  metrics_->SetStateOk(state.ok());
  if (!state.ok()) {
    std::rename(path_.c_str(), (path_ + ".bad").c_str());
    return absl::DataLossError(fmt::format("{} is damaged: {}; it is now {}.bad", path_,
                                           std::string(state.status().message()), path_));
  }
  saved_ = text;
  std::string problems;
  for (const auto& [name, policy] : policies_) {
    const Json* own = FindKey(*state, name);
    if (own == nullptr) continue;
    const absl::Status restored = policy->Restore(*own);
    if (restored.ok()) continue;
    problems += fmt::format("{}{}: {}", problems.empty() ? "" : "; ", name,
                            std::string(restored.message()));
  }
  if (problems.empty()) return absl::OkStatus();
  metrics_->SetStateOk(false);
  return absl::InvalidArgumentError(fmt::format("{}: {}", path_, problems));
}

absl::Status RouteState::Save() {
  Json state = Json::object();
  for (const auto& [name, policy] : policies_) state[name] = policy->State();
  const std::string body = state.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  std::string text = kHead + ChecksumText(Checksum(body)) + "\n" + body;
  if (text == saved_) return absl::OkStatus();
  // Hashes of clients' keys are nobody else's business.
  if (const absl::Status status = ReplaceFile(path_, text, 0600); !status.ok()) {
    return absl::Status(status.code(),
                        "route_state: cannot write " + std::string(status.message()));
  }
  saved_ = std::move(text);
  return absl::OkStatus();
}

void RouteState::Start() {
  thread_ = std::thread([this] { Run(); });
}

void RouteState::Run() {
  bool stopping = false, failed = false;
  while (!stopping) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::seconds(kPeriod_s), [this] { return stopping_; });
      stopping = stopping_;
    }
    const absl::Status saved = Save();
    if (!saved.ok() && !failed) spdlog::warn("{}", std::string(saved.message()));
    if (!saved.ok() || failed) metrics_->SetStateOk(saved.ok());
    failed = !saved.ok();
  }
}

}  // namespace hostler
