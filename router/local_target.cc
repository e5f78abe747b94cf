#include <utility>

#include "router/target.h"
#include "router/upstream_body.h"

namespace hostler {
namespace {

class LocalTarget : public Target {
 public:
  LocalTarget(std::string name, Price price, std::unique_ptr<Engine> engine)
      : name_(std::move(name)), price_(price), engine_(std::move(engine)) {}

  const std::string& name() const override { return name_; }

  TargetSnapshot snapshot() const override {
    const EngineStats stats = engine_->stats();
    return {.name = name_,
            .price = price_,
            .max_context = engine_->max_context(),
            .available = true,
            .running = stats.running,
            .waiting = stats.waiting,
            .local = true};
  }

  absl::StatusOr<std::shared_ptr<GenerateStream>> Submit(GenerateRequest request) override {
    if (request.original != nullptr && !request.original->engine_error.ok()) {
      return request.original->engine_error;
    }
    return engine_->Submit(std::move(request));
  }

  Engine* engine() override { return engine_.get(); }
  void Drain(int timeout_ms) override { engine_->Drain(timeout_ms); }

 private:
  const std::string name_;
  const Price price_;
  const std::unique_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<Target> NewLocalTarget(std::string name, Price price,
                                       std::unique_ptr<Engine> engine) {
  return std::make_unique<LocalTarget>(std::move(name), price, std::move(engine));
}

}  // namespace hostler
