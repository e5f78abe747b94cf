// Daemon: engines, router and front ends, put together and taken down.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/embed/encoder.h"
#include "router/quality/prompt_embedder.h"
#include "server/config.h"
#include "server/deployment.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
#include "server/route_state.h"
#include "server/service.h"

namespace hostler {

class Daemon {
 public:
  // The configured encoder; null: there is none. Errors: Encoder::Load's, saying which
  // setting is at fault.
  static absl::StatusOr<std::unique_ptr<Encoder>> LoadEncoder(const ServeConfig& config);

  // Loads the models and serves when it returns. Errors: Unavailable naming
  // the port that is taken; the engine's.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const ServeConfig& config,
                                                       const Deployment& deployment);

  // Reads every virtual model's router file anew; what cannot be read is logged and
  // leaves the one that serves.
  void ReloadRouters();

  // Refuses new requests (health says so), lets running ones end within the
  // drain timeout, and stops the front ends.
  void Drain();

  int http_port() const { return http_->port(); }
  // REQUIRES: gRPC is not off.
  int grpc_port() const { return grpc_->port(); }

  // What is served and where, in a few lines for a person.
  std::string Describe() const;

 private:
  explicit Daemon(const ServeConfig& config) : config_(config) {}
  absl::Status LoadModels(const Deployment& deployment);
  absl::Status AddUpstreams();
  absl::Status AddVirtualModels(const Deployment& deployment);
  absl::Status StartFrontEnds();

  const ServeConfig config_;
  std::vector<std::string> virtual_lines_;                            // of Describe()
  std::vector<std::pair<std::string, ScoredRoutingPolicy*>> scored_;  // in router_
  std::unique_ptr<PromptEmbedder> embedder_;

  // In the order of their lives: the front ends go first.
  Router router_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<RouteState> route_state_;
  std::unique_ptr<RequestLog> log_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
};

}  // namespace hostler
