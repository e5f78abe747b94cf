#include "server/route_book.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string_view>
#include <utility>

#include "engine/base/checksum.h"
#include "fmt/format.h"
#include "server/route_report.h"

namespace hostler {
namespace {

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Also of an empty file, and of one that cannot be read.
bool EndsLine(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in || in.tellg() <= 0) return true;
  in.seekg(-1, std::ios::end);
  return in.get() == '\n';
}

}  // namespace

RouteBook::~RouteBook() {
  if (log_ != nullptr) std::fclose(log_);
}

absl::Status RouteBook::OpenLog(const std::string& path, bool with_text) {
  // Prompts are nobody else's business.
  log_ = std::fopen(path.c_str(), "ae");
  if (log_ == nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("route_log: cannot write {}: {}", path, std::strerror(errno)));
  }
  // A line that another server could not finish is not to spoil the first of ours.
  if (!EndsLine(path)) std::fputc('\n', log_);
  with_text_ = with_text;
  return absl::OkStatus();
}

void RouteBook::WriteLine(const Json& line) {
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  std::lock_guard lock(log_mutex_);
  std::fwrite(text.data(), 1, text.size(), log_);
  std::fflush(log_);
}

std::string RouteBook::PromptForLog(const GenerateRequest& request) const {
  if (log_ == nullptr) return "";
  std::string storage;
  const std::string_view prompt = ReadRoutePrompt(request, &storage).text;
  return with_text_ ? std::string(prompt) : ChecksumText(Checksum(prompt));
}

void RouteBook::Finished(const std::string& id, const Decision& decision,
                         const RouteOutcome& outcome, const std::string& prompt) {
  router_->Finished(decision, outcome);
  if (decision.virtual_model.empty()) return;
  metrics_->ObserveOutcome(decision, outcome);
  if (log_ != nullptr) {
    WriteLine({{"type", "decision"},
               {"time", UnixSeconds()},
               {"id", id},
               {with_text_ ? "prompt" : "prompt_hash", prompt},
               {"decision", DecisionJson(decision)},
               {"outcome", OutcomeJson(outcome)}});
  }
  if (outcome.status.ok()) Remember(id, outcome.target, decision);
}

void RouteBook::ShadowFinished(const ShadowAnswer& shadow) {
  if (log_ != nullptr) {
    Json line = {{"type", "shadow"},
                 {"time", UnixSeconds()},
                 {"id", shadow.id},
                 {"of", shadow.real_id},
                 {with_text_ ? "prompt" : "prompt_hash", shadow.prompt},
                 {"outcome", OutcomeJson(shadow.outcome)},
                 {"real_outcome", OutcomeJson(shadow.real_outcome)}};
    if (with_text_) {
      line["answer"] = shadow.answer;
      line["real_answer"] = shadow.real_answer;
    }
    WriteLine(line);
  }
  if (shadow.outcome.status.ok()) Remember(shadow.id, shadow.outcome.target, shadow.decision);
}

void RouteBook::Remember(const std::string& id, const std::string& target,
                         const Decision& decision) {
  std::lock_guard lock(mutex_);
  if (recent_.contains(id)) return;
  Recent& recent = recent_[id];
  recent = {target, decision, order_.insert(order_.end(), id)};
  recent.decision.prefixes.clear();
  if (order_.size() <= kRecent) return;
  recent_.erase(order_.front());
  order_.pop_front();
}

absl::Status RouteBook::Feedback(const std::string& id, double score) {
  Recent judged;
  {
    std::lock_guard lock(mutex_);
    const auto found = recent_.find(id);
    if (found == recent_.end()) {
      return absl::NotFoundError(fmt::format(
          "there is no answer \"{:.100}\" of a virtual model among the last {}", id, kRecent));
    }
    judged = std::move(found->second);
    // A judgement counts once.
    order_.erase(judged.place);
    recent_.erase(found);
  }
  if (RoutingPolicy* policy = router_->FindPolicy(judged.decision.virtual_model)) {
    policy->Learn(judged.decision, judged.target, score);
  }
  metrics_->ObserveFeedback(judged.decision, judged.target, score);
  if (log_ != nullptr) {
    WriteLine({{"type", "feedback"},
               {"time", UnixSeconds()},
               {"id", id},
               {"model", judged.target},
               {"score", score}});
  }
  return absl::OkStatus();
}

}  // namespace hostler
