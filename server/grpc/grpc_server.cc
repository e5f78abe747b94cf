#include "server/grpc/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "engine/base/status.h"
#include "fmt/format.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/grpc/convert.h"
#include "server/grpc/generate_calls.h"

namespace hostler {
namespace {

class HostlerService : public HostlerMethods {
 public:
  explicit HostlerService(hostler::Service* service) : service_(service) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(Tokenize(*request, response)));
    return reactor;
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    for (const auto& target : service_->router().targets()) {
      v1::Model* model = response->add_models();
      model->set_id(target->name());
      model->set_max_context(target->snapshot().max_context);
      if (Engine* engine = target->engine()) model->set_architecture(engine->model().architecture);
    }
    for (const std::string& name : service_->router().virtual_models()) {
      v1::Model* model = response->add_models();
      model->set_id(name);
      model->set_is_virtual(true);
    }
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  absl::Status Tokenize(const v1::TokenizeRequest& proto, v1::TokenizeResponse* response) const {
    HOSTLER_ASSIGN_OR_RETURN(const GenerateRequest request, FromProto(proto));
    HOSTLER_ASSIGN_OR_RETURN(Engine * engine, service_->EngineFor(request.model));
    HOSTLER_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, engine->TokenizePrompt(request));
    response->mutable_token_ids()->Add(ids.begin(), ids.end());
    response->set_max_context(engine->max_context());
    return absl::OkStatus();
  }

  hostler::Service* const service_;
};

}  // namespace

class GrpcServer::Impl {
 public:
  explicit Impl(Service* service) : methods_(service), service_(service) {}

  absl::Status Start(const Options& options) {
    // Debian's Abseil looks for deadlocks at every lock of gRPC's, a twentieth of a token's time.
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    // A second server on the same port must fail, not share its connections.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.SetMaxReceiveMessageSize(static_cast<int>(
        std::min<size_t>(options.max_message_bytes, std::numeric_limits<int>::max())));
    const bool is_v6 = options.host.find(':') != std::string::npos;
    const std::string address = is_v6 ? fmt::format("[{}]:{}", options.host, options.port)
                                      : fmt::format("{}:{}", options.host, options.port);
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&methods_);
    generate_ = std::make_unique<GenerateCalls>(&methods_, service_, builder.AddCompletionQueue());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return absl::UnavailableError(fmt::format(
          "cannot listen for gRPC on {}: the port is in use or the address is not this machine's",
          address));
    }
    generate_->Start();
    // Health can be asked of the server as a whole and of this service.
    server_->GetHealthCheckService()->SetServingStatus(v1::Hostler::service_full_name(), true);
    return absl::OkStatus();
  }

  int port() const { return port_; }

  void SetNotServing() { server_->GetHealthCheckService()->SetServingStatus(false); }

  void Stop(int deadline_ms) {
    std::lock_guard lock(mutex_);
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(deadline_ms));
    server_->Wait();
    generate_ = nullptr;
    server_ = nullptr;
  }

 private:
  HostlerService methods_;
  Service* const service_;
  int port_ = 0;
  std::mutex mutex_;
  std::unique_ptr<GenerateCalls> generate_;
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const Options& options,
                                                              Service* service) {
  auto impl = std::make_unique<Impl>(service);
  HOSTLER_RETURN_IF_ERROR(impl->Start(options));
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() { Stop(0); }

int GrpcServer::port() const { return impl_->port(); }

void GrpcServer::SetNotServing() { impl_->SetNotServing(); }

void GrpcServer::Stop(int deadline_ms) { impl_->Stop(deadline_ms); }

}  // namespace hostler
