// hostler trace: records which experts a model chooses for a file of prompts.

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cache/store_sizes.h"
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/engine/gate_recorder.h"
#include "engine/engine/model_needs.h"
#include "engine/engine/served_experts.h"
#include "engine/model/loader.h"
#include "fmt/format.h"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/commands/trace_commands.h"

namespace hostler {
namespace {

struct TraceFlags {
  ModelFlags model;
  std::string prompts;
  std::string output;
  int max_tokens = 128;
};

// A model that runs one sequence at a time, greedily.
class Runner {
 public:
  static absl::StatusOr<std::unique_ptr<Runner>> Load(const ModelFlags& flags) {
    auto runner = std::make_unique<Runner>();
    HOSTLER_RETURN_IF_ERROR(runner->Start(flags));
    return runner;
  }

  const Model& model() const { return *model_.model; }
  const ModelInfo& info() const { return model().info(); }
  int step_tokens() const { return step_tokens_; }
  const ExpertStore* experts() const { return model_.model->experts(); }
  const Tokenizer* tokenizer() const { return model_.text.tokenizer.get(); }

  int context() const { return context_; }

  // The prompt's tokens, then up to `max_tokens` more until one ends the text.
  // REQUIRES: all fit the context.
  absl::Status Run(const std::vector<int32_t>& prompt, int max_tokens, GateRecorder* recorder) {
    const int length = static_cast<int>(prompt.size());
    result_.trace = recorder_ = recorder;
    int32_t next = 0;
    for (int at = 0; at < length; at += step_tokens_) {
      const int rows = std::min(step_tokens_, length - at);
      HOSTLER_ASSIGN_OR_RETURN(next, Step(std::span(prompt).subspan(at, rows), at, length));
    }
    const std::vector<int32_t>& ends = info().eos_ids;
    for (int i = 0; i < max_tokens; ++i) {
      if (std::find(ends.begin(), ends.end(), next) != ends.end()) break;
      const int32_t token = next;
      HOSTLER_ASSIGN_OR_RETURN(next, Step(std::span(&token, 1), length + i, length));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Start(const ModelFlags& flags) {
    EngineOptions options = flags.options;
    options.expert_trace.clear();  // the one that is asked for is another
    options.on_warning = PrintWarning;
    HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                             NewCpuBackend(ThreadsFor(options), KernelsFor(options)));
    HOSTLER_ASSIGN_OR_RETURN(
        model_, LoadModel(flags.path, {options.quantize == Quantize::kQ8, options.precise},
                          std::move(backend)));
    Model& model = *model_.model;
    if (experts() == nullptr) return absl::InvalidArgumentError("the model has no experts");
    step_tokens_ = options.step_tokens;
    context_ = std::min(options.max_context > 0 ? options.max_context : 4096, info().max_positions);
    HOSTLER_RETURN_IF_ERROR(model.AllocateWorkspace({step_tokens_, 1}));
    layout_ = KvLayoutFor(model, options);
    const int blocks = (context_ + layout_.block_tokens - 1) / layout_.block_tokens;
    HOSTLER_ASSIGN_OR_RETURN(kv_, model_.backend->Allocate(layout_.block_bytes() * blocks));
    HOSTLER_ASSIGN_OR_RETURN(state_,
                             model_.backend->Allocate(std::max<size_t>(model.state_bytes(), 1)));
    for (int i = 0; i < blocks; ++i) blocks_.push_back(i);
    return StartCache(options);
  }

  absl::Status StartCache(const EngineOptions& options) {
    HOSTLER_ASSIGN_OR_RETURN(const StoreSizes sizes, MeasureStore(*experts()));
    const uint64_t most = options.memory_bytes > 0 ? options.memory_bytes : UsableMemoryBytes() / 2;
    MemoryPlan plan;
    plan.experts = options.expert_memory_bytes > 0 ? options.expert_memory_bytes
                                                   : std::min(sizes.all_slots_bytes, most);
    HOSTLER_ASSIGN_OR_RETURN(served_,
                             ServedExperts::Create(*model_.model, *model_.weights, options));
    return served_->Start(plan, model_.backend.get());
  }

  // The likeliest token after `tokens`.
  absl::StatusOr<int32_t> Step(std::span<const int32_t> tokens, int position, int prompt_tokens) {
    const int rows = static_cast<int>(tokens.size());
    batch_.tokens.assign(tokens.begin(), tokens.end());
    batch_.positions.clear();
    for (int i = 0; i < rows; ++i) batch_.positions.push_back(position + i);
    batch_.sequences = {{.rows = rows,
                         .first_position = position,
                         .prompt_tokens = prompt_tokens,
                         .blocks = blocks_,
                         .state = 0}};
    batch_.logit_rows = {rows - 1};
    recorder_->BeginStep(batch_);
    model_.model->Forward(
        batch_,
        {{layout_, kv_->data()}, {state_->data(), model_.model->state_bytes()}, served_->cache()},
        &result_);
    recorder_->EndStep();
    for (const absl::Status& status : result_.row_status) HOSTLER_RETURN_IF_ERROR(status);
    return static_cast<int32_t>(std::max_element(result_.logits.begin(), result_.logits.end()) -
                                result_.logits.begin());
  }

  LoadedModel model_;
  KvLayout layout_;
  std::unique_ptr<Buffer> kv_, state_;
  std::vector<int32_t> blocks_;
  std::unique_ptr<ServedExperts> served_;
  StepBatch batch_;
  StepResult result_;
  GateRecorder* recorder_ = nullptr;
  int step_tokens_ = 0;
  int context_ = 0;
};

struct TokenizedPrompt {
  int line = 0;  // of the file, from 1
  std::vector<int32_t> ids;
};

// All of them, before the first is answered. Errors: InvalidArgument naming the
// line.
absl::StatusOr<std::vector<TokenizedPrompt>> TokenizePrompts(const Runner& runner,
                                                             const std::string& text,
                                                             int max_tokens) {
  std::vector<TokenizedPrompt> prompts;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    TokenizedPrompt prompt{
        number, runner.tokenizer()->Encode(line, {.parse_special = true, .add_special = true})};
    if (prompt.ids.empty()) continue;
    if (prompt.ids.size() + max_tokens > static_cast<size_t>(runner.context())) {
      return absl::InvalidArgumentError(
          fmt::format("line {}: a prompt of {} tokens and {} more exceed the context of {}; see "
                      "--max-context",
                      number, prompt.ids.size(), max_tokens, runner.context()));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

absl::Status RecordPrompts(const TraceFlags& flags, const std::string& prompts) {
  HOSTLER_ASSIGN_OR_RETURN(std::unique_ptr<Runner> runner, Runner::Load(flags.model));
  if (runner->tokenizer() == nullptr) {
    return absl::FailedPreconditionError("the model has no tokenizer beside its weights");
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::vector<TokenizedPrompt> tokenized,
                           TokenizePrompts(*runner, prompts, flags.max_tokens));
  HOSTLER_ASSIGN_OR_RETURN(
      std::unique_ptr<GateRecorder> recorder,
      GateRecorder::Create({.path = flags.output, .step_rows = runner->step_tokens(), .wait = true},
                           runner->model()));
  ProgressLine line;
  int number = 0;
  for (const TokenizedPrompt& prompt : tokenized) {
    line.Show(fmt::format("prompt {} of {}, {} lines written", ++number, tokenized.size(),
                          recorder->counts().written));
    if (absl::Status status = runner->Run(prompt.ids, flags.max_tokens, recorder.get());
        !status.ok()) {
      return absl::Status(status.code(), fmt::format("the prompt of line {}: {}", prompt.line,
                                                     std::string(status.message())));
    }
  }
  return recorder->Finish();
}

int Trace(const TraceFlags& flags) {
  const absl::StatusOr<std::string> prompts = ReadFile(flags.prompts);
  if (!prompts.ok()) return FailRunning(prompts.status());
  if (absl::Status status = RecordPrompts(flags, *prompts); !status.ok()) {
    return FailRunning(status);
  }
  return FinishStdout();
}

}  // namespace

void AddTraceCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<TraceFlags>();
  CLI::App* command =
      app->add_subcommand("trace",
                          "Record which experts a model chooses, for replay and analyze.\n"
                          "Prompts are answered greedily, one after another");
  AddModelFlags(command, &flags->model);
  command->add_option("--prompts", flags->prompts, "A file with one prompt a line")->required();
  command->add_option("-o,--output", flags->output, "The trace to write")->required();
  command->add_option("--max-tokens", flags->max_tokens, "Tokens to generate for a prompt")
      ->check(Between(1, 1 << 20))
      ->capture_default_str();
  command->footer("Example:\n  hostler trace models/sample-moe --prompts prompts.txt -o trace.csv");
  command->callback([flags, run] { *run = [flags] { return Trace(*flags); }; });
}

}  // namespace hostler
