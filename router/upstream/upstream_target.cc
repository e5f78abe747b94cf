#include "router/upstream/upstream_target.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/features.h"
#include "router/upstream/core.h"
#include "router/upstream/encode.h"
#include "router/upstream/exchange.h"
#include "router/upstream/health_checks.h"

namespace hostler {
namespace {

constexpr size_t kMaxKeyBytes = 8192;

absl::Status KeyError(const char* setting, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", setting, what));
}

// The key without the white space around it. Errors do not show it.
absl::StatusOr<std::string> CheckedKey(const char* setting, std::string key) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!key.empty() && is_space(key.back())) key.pop_back();
  key.erase(key.begin(), std::find_if_not(key.begin(), key.end(), is_space));
  if (key.empty()) return KeyError(setting, "the key is empty");
  if (key.size() > kMaxKeyBytes) return KeyError(setting, "the key is too long");
  const bool plain =
      std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!plain) return KeyError(setting, "the key has characters that no key has");
  return key;
}

absl::StatusOr<std::string> ReadKey(const UpstreamOptions& options) {
  if (!options.api_key_file.empty() && !options.api_key_env.empty()) {
    return KeyError("api_key_env", "there is an api_key_file as well; give one of them");
  }
  if (!options.api_key_env.empty()) {
    const char* value = std::getenv(options.api_key_env.c_str());
    if (value == nullptr) {
      return KeyError("api_key_env", fmt::format("the environment has no {}", options.api_key_env));
    }
    return CheckedKey("api_key_env", value);
  }
  if (options.api_key_file.empty()) return std::string();
  std::ifstream file(options.api_key_file, std::ios::binary);
  std::string key(kMaxKeyBytes + 1, '\0');
  if (!file.is_open() || (!file.read(key.data(), std::streamsize(key.size())) && !file.eof())) {
    return KeyError("api_key_file", fmt::format("{} cannot be read", options.api_key_file));
  }
  key.resize(size_t(file.gcount()));
  return CheckedKey("api_key_file", std::move(key));
}

absl::StatusOr<std::unique_ptr<net::ssl::context>> MakeTls(const UpstreamOptions& options) {
  auto tls = std::make_unique<net::ssl::context>(net::ssl::context::tls_client);
  boost::system::error_code ec;
  tls->set_options(net::ssl::context::default_workarounds | net::ssl::context::no_sslv2 |
                       net::ssl::context::no_sslv3 | net::ssl::context::no_tlsv1 |
                       net::ssl::context::no_tlsv1_1,
                   ec);
  if (options.ca_file.empty()) {
    tls->set_default_verify_paths(ec);
  } else {
    tls->load_verify_file(options.ca_file, ec);
  }
  if (!ec) return tls;
  return absl::InvalidArgumentError(
      fmt::format("ca_file: {} has no certificates that can be read: {}",
                  options.ca_file.empty() ? "the system" : options.ca_file, ec.message()));
}

class UpstreamTarget : public Target {
 public:
  UpstreamTarget(std::shared_ptr<UpstreamIo> io, std::shared_ptr<UpstreamCore> core)
      : io_(std::move(io)), core_(std::move(core)) {
    if (core_->options().health.interval_s <= 0) return;
    checks_ = std::make_shared<HealthChecks>(core_);
    checks_->Start();
  }
  ~UpstreamTarget() override {
    if (checks_ != nullptr) checks_->Stop();
    core_->Drain(0);
  }

  const std::string& name() const override { return core_->options().name; }
  TargetSnapshot snapshot() const override { return core_->snapshot(); }

  absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) override {
    const UpstreamOptions& options = core_->options();
    HOSTLER_ASSIGN_OR_RETURN(
        EncodedRequest encoded,
        EncodeRequest(request, options.model.empty() ? options.name : options.model));
    const int prompt_tokens = EstimatePromptTokens(request);
    const auto exchange =
        std::make_shared<Exchange>(core_, std::move(encoded), request, prompt_tokens);
    HOSTLER_RETURN_IF_ERROR(core_->Enter(exchange.get()));
    return exchange->Start();
  }

  Engine* engine() override { return nullptr; }
  std::optional<UpstreamStats> upstream_stats() const override { return core_->stats(); }
  void Drain(int timeout_ms) override { core_->Drain(timeout_ms); }

 private:
  const std::shared_ptr<UpstreamIo> io_;  // outlives what runs on it
  const std::shared_ptr<UpstreamCore> core_;
  std::shared_ptr<HealthChecks> checks_;
};

}  // namespace

absl::Status CheckUpstream(const UpstreamOptions& options) {
  if (const auto url = ParseUpstreamUrl(options.url); !url.ok()) {
    return absl::InvalidArgumentError(fmt::format("url: {}", std::string(url.status().message())));
  }
  HOSTLER_RETURN_IF_ERROR(ReadKey(options).status());
  return MakeTls(options).status();
}

absl::StatusOr<std::unique_ptr<Target>> NewUpstreamTarget(UpstreamOptions options,
                                                          std::shared_ptr<UpstreamIo> io) {
  HOSTLER_RETURN_IF_ERROR(CheckUpstream(options));
  HOSTLER_ASSIGN_OR_RETURN(const UpstreamUrl url, ParseUpstreamUrl(options.url));
  HOSTLER_ASSIGN_OR_RETURN(std::string key, ReadKey(options));
  std::unique_ptr<net::ssl::context> tls;
  if (url.tls) {
    HOSTLER_ASSIGN_OR_RETURN(tls, MakeTls(options));
  }
  const IoExecutor executor = io->executor();
  auto core = std::make_shared<UpstreamCore>(std::move(options), std::move(key), url,
                                             std::move(tls), executor);
  return std::make_unique<UpstreamTarget>(std::move(io), std::move(core));
}

}  // namespace hostler
