#include "server/commands/daemon.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "engine/base/cores.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "router/quality/predictor.h"
#include "router/upstream/upstream_target.h"
#include "server/commands/model_commands.h"
#include "spdlog/spdlog.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

// More gain nothing for a short prompt.
constexpr int kEncoderThreads = 2;

// Loading can take minutes; a port that is taken should not wait for it. What
// cannot be told here is left to the server itself.
absl::Status CheckPortFree(const std::string& host, int port) {
  if (port <= 0) return absl::OkStatus();
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    return absl::InvalidArgumentError(fmt::format("host \"{}\" cannot be resolved", host));
  }
  absl::Status status;
  const int fd = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
  if (fd >= 0) {
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
      status = absl::UnavailableError(
          fmt::format("cannot listen on {}:{}: {}", host, port, std::strerror(errno)));
    }
    close(fd);
  }
  freeaddrinfo(found);
  return status;
}

std::string Count(uint64_t parameters) {
  if (parameters >= 1000000000) return fmt::format("{:.1f}B", parameters / 1e9);
  return fmt::format("{:.1f}M", parameters / 1e6);
}

std::string DescribeModel(const Engine& engine) {
  const ModelInfo& info = engine.model();
  std::string text = fmt::format("{}, {} parameters", info.architecture, Count(info.parameters));
  if (info.moe_layers > 0) text += fmt::format(" ({} active)", Count(info.active_parameters));
  return text + fmt::format(", {}, context {}", info.weight_type, engine.max_context());
}

std::string DescribeUpstream(const UpstreamOptions& upstream) {
  std::string text = fmt::format(
      "{} at {}", upstream.model.empty() ? upstream.name : upstream.model, upstream.url);
  if (!upstream.price.has_value()) return text + ", no price";
  return text + fmt::format(", {} / {} USD a million tokens in / out", upstream.price->input,
                            upstream.price->output);
}

bool CanChat(const Engine& engine) {
  GenerateRequest request;
  ChatPrompt chat;
  chat.messages = {{{"role", "user"}, {"content", "Hello"}}};
  request.prompt = std::move(chat);
  return engine.TokenizePrompt(request).ok();
}

// Of a router file that is served without what it was trained with.
void WarnOfEncoder(const std::string& virtual_model, QualitySlot* slot) {
  const auto current = slot->current();
  if (current == nullptr || current->no_embedding.empty()) return;
  spdlog::warn("{}: {} is used without embeddings: {}", virtual_model, current->path,
               current->no_embedding);
}

// An address that a client on this machine can use.
std::string ClientHost(const std::string& host) {
  if (host == "0.0.0.0" || host == "::") return "127.0.0.1";
  return host.find(':') == std::string::npos ? host : fmt::format("[{}]", host);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Encoder>> Daemon::LoadEncoder(const ServeConfig& config) {
  if (config.encoder.empty()) return nullptr;
  const int threads = config.engine.threads > 0 ? config.engine.threads : UsableCores();
  auto encoder = Encoder::Load(config.encoder, {.threads = std::min(threads, kEncoderThreads),
                                                .max_tokens = config.encoder_tokens});
  if (encoder.ok()) return encoder;
  return absl::Status(encoder.status().code(),
                      fmt::format("encoder: {}", std::string(encoder.status().message())));
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const ServeConfig& config,
                                                      const Deployment& deployment) {
  HOSTLER_RETURN_IF_ERROR(CheckPortFree(config.host, config.port));
  HOSTLER_RETURN_IF_ERROR(CheckPortFree(config.host, config.grpc_port));
  std::unique_ptr<Daemon> daemon(new Daemon(config));
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Encoder> encoder, LoadEncoder(config));
  if (encoder != nullptr) {
    const std::chrono::duration<double, std::milli> wait(config.encoder_wait_ms);
    daemon->embedder_ = std::make_unique<PromptEmbedder>(
        std::move(encoder), std::chrono::duration_cast<std::chrono::microseconds>(wait));
  }
  HOSTLER_RETURN_IF_ERROR(daemon->LoadModels(deployment));
  HOSTLER_RETURN_IF_ERROR(daemon->AddUpstreams());
  HOSTLER_RETURN_IF_ERROR(daemon->AddVirtualModels(deployment));
  HOSTLER_RETURN_IF_ERROR(daemon->StartFrontEnds());
  return daemon;
}

absl::Status Daemon::LoadModels(const Deployment& deployment) {
  for (const ModelDeployment& model : deployment.models) {
    const Clock::time_point begin = Clock::now();
    EngineOptions options = model.options;
    if (!model.device_why.empty()) {
      spdlog::info("{}: device auto is {}: {}", model.name, options.device, model.device_why);
    }
    if (options.device == "cuda-emulated") {
      spdlog::warn("{}: CUDA is emulated on the CPU, slowly, for tests", model.name);
    }
    options.on_warning = [name = model.name](const std::string& text) {
      spdlog::warn("{}: {}", name, text);
    };
    auto engine = LoadEngine({model.path, std::move(options)});
    if (!engine.ok()) {
      return absl::Status(
          engine.status().code(),
          fmt::format("{}: {}", model.name, std::string(engine.status().message())));
    }
    const std::chrono::duration<double> seconds = Clock::now() - begin;
    spdlog::info("loaded {} in {:.1f} s; {}", model.name, seconds.count(),
                 (*engine)->memory().ToString());
    HOSTLER_RETURN_IF_ERROR(
        router_.AddTarget(NewLocalTarget(model.name, model.price, *std::move(engine))));
  }
  return absl::OkStatus();
}

absl::Status Daemon::AddUpstreams() {
  if (config_.upstreams.empty()) return absl::OkStatus();
  const auto io = std::make_shared<UpstreamIo>();
  for (UpstreamOptions options : config_.upstreams) {
    options.on_event = [](const std::string& text) { spdlog::warn("{}", text); };
    HOSTLER_ASSIGN_OR_RETURN(auto target, NewUpstreamTarget(std::move(options), io));
    HOSTLER_RETURN_IF_ERROR(router_.AddTarget(std::move(target)));
  }
  return absl::OkStatus();
}

absl::Status Daemon::AddVirtualModels(const Deployment& deployment) {
  std::vector<std::string> names;
  for (const auto& target : router_.targets()) names.push_back(target->name());
  for (const VirtualModelConfig& model : deployment.virtual_models) {
    auto policy = NewPolicy(model, names, QualityPredictor::Load, embedder_.get());
    if (QualitySlot* slot = policy->quality()) {
      if (!slot->status().ok()) {
        spdlog::warn("{}: {}; the static policy serves", model.name,
                     std::string(slot->status().message()));
      }
      WarnOfEncoder(model.name, slot);
    }
    if (auto* scored = dynamic_cast<ScoredRoutingPolicy*>(policy.get())) {
      scored_.emplace_back(model.name, scored);
    }
    HOSTLER_RETURN_IF_ERROR(router_.AddVirtualModel(model.name, std::move(policy), model.options));
    virtual_lines_.push_back(fmt::format("  virtual  {}  {}\n", model.name, DescribePolicy(model)));
  }
  return absl::OkStatus();
}

absl::Status Daemon::StartFrontEnds() {
  metrics_ = std::make_unique<Metrics>(&router_);
  if (!config_.route_state.empty()) {
    route_state_ = std::make_unique<RouteState>(config_.route_state, scored_, &metrics_->routes());
    if (const absl::Status loaded = route_state_->Load(); !loaded.ok()) {
      spdlog::warn("{}; it begins anew", std::string(loaded.message()));
    }
    // A place that cannot be written is better known now.
    HOSTLER_RETURN_IF_ERROR(route_state_->Save());
    route_state_->Start();
  }
  log_ = NewRequestLog(config_.log_format == "json");
  service_ = std::make_unique<Service>(&router_, metrics_.get(), log_.get());
  if (!config_.route_log.empty()) {
    HOSTLER_RETURN_IF_ERROR(
        service_->routes().OpenLog(config_.route_log, config_.route_log_prompts == "text"));
  }
  // gRPC first: who finds /health well may use both.
  if (config_.grpc_port >= 0) {
    GrpcServer::Options grpc;
    grpc.host = config_.host;
    grpc.port = config_.grpc_port;
    grpc.max_message_bytes = config_.max_body_bytes;
    HOSTLER_ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(grpc, service_.get()));
  }
  HttpServer::Options http;
  http.host = config_.host;
  http.port = config_.port;
  http.max_body_bytes = config_.max_body_bytes;
  if (config_.admin != "local") {
    http.admin = config_.admin == "on" ? AdminAccess::kOn : AdminAccess::kOff;
  }
  HOSTLER_ASSIGN_OR_RETURN(http_, HttpServer::Start(http, service_.get()));
  return absl::OkStatus();
}

void Daemon::ReloadRouters() {
  for (const std::string& name : router_.virtual_models()) {
    QualitySlot* slot = router_.FindPolicy(name)->quality();
    if (slot == nullptr) continue;
    if (const auto version = slot->Reload(); version.ok()) {
      spdlog::info("{}: router file version {} serves", name, *version);
      WarnOfEncoder(name, slot);
    } else {
      spdlog::warn("{}: {}", name, std::string(version.status().message()));
    }
  }
}

void Daemon::Drain() {
  service_->SetDraining();
  if (grpc_ != nullptr) grpc_->SetNotServing();
  const Clock::time_point deadline = Clock::now() + std::chrono::seconds(config_.drain_timeout_s);
  // All at once: a target that drains takes no more, whichever is waited for.
  std::vector<std::thread> drains;
  for (const auto& target : router_.targets()) {
    drains.emplace_back([target = target.get(), deadline] {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      target->Drain(static_cast<int>(std::max<int64_t>(left.count(), 0)));
    });
  }
  for (std::thread& drain : drains) drain.join();
  // The last words of the answers are still on their way.
  constexpr int kWriteGraceMs = 5000;
  if (grpc_ != nullptr) grpc_->Stop(kWriteGraceMs);
  http_->Stop();
}

std::string Daemon::Describe() const {
  std::string text = fmt::format("hostler {}\n", HOSTLER_VERSION);
  for (const auto& target : router_.targets()) {
    const Engine* engine = target->engine();
    if (engine == nullptr) continue;
    text += fmt::format("  model    {}  {}\n", target->name(), DescribeModel(*engine));
    text += fmt::format("  memory   {}\n", engine->memory().ToString());
  }
  for (const UpstreamOptions& upstream : config_.upstreams) {
    text += fmt::format("  upstream {}  {}\n", upstream.name, DescribeUpstream(upstream));
  }
  for (const std::string& line : virtual_lines_) text += line;
  if (embedder_ != nullptr) {
    const EmbeddingKind kind = embedder_->kind();
    text += fmt::format("  encoder  {}  {} values, prompts up to {} tokens\n", config_.encoder,
                        kind.size, kind.tokens);
  }
  const std::string host = ClientHost(config_.host);
  const std::string url = fmt::format("http://{}:{}", host, http_->port());
  text += fmt::format("  HTTP     {0}/v1  (live page {0}/, metrics {0}/metrics)\n", url);
  if (grpc_ != nullptr) text += fmt::format("  gRPC     {}:{}\n", host, grpc_->port());
  Target& first = *router_.targets().front();
  const bool chat = first.engine() == nullptr || CanChat(*first.engine());
  text += fmt::format(
      "  try      curl {}/v1/{} -H 'Content-Type: application/json' -d '{{\"model\": \"{}\", "
      "{}, \"max_tokens\": 64}}'\n",
      url, chat ? "chat/completions" : "completions", first.name(),
      chat ? "\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]"
           : "\"prompt\": \"Once upon a time\"");
  return text;
}

}  // namespace hostler
