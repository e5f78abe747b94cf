// hostler run: a prompt, or a chat, in the terminal.

#include <unistd.h>

#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/chat_template.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/commands/token_list.h"

namespace hostler {
namespace {

struct RunFlags {
  ModelFlags model;
  std::optional<std::string> prompt;
  std::optional<std::string> tokens;
  GenerateRequest request;  // all but the prompt
  double temperature = 0;
  int max_tokens = 256;
  bool chat = false;
  bool interactive = false;
  bool json = false;
};

// What came of one request.
struct Answer {
  std::string text;
  std::vector<int32_t> token_ids;
  FinishReason finish_reason = FinishReason::kError;
  Usage usage;
  Timings timings;
};

double TokensPerSecond(const Answer& answer) {
  const double seconds = (answer.timings.total_ms - answer.timings.first_token_ms) / 1000;
  return seconds > 0 ? (answer.usage.completion_tokens - 1) / seconds : 0;
}

nlohmann::ordered_json ToJson(const Answer& answer) {
  const Timings& t = answer.timings;
  return {{"text", answer.text},
          {"token_ids", answer.token_ids},
          {"finish_reason", FinishReasonName(answer.finish_reason)},
          {"timings",
           {{"prompt_tokens", answer.usage.prompt_tokens},
            {"cached_prompt_tokens", answer.usage.cached_prompt_tokens},
            {"completion_tokens", answer.usage.completion_tokens},
            {"queued_ms", t.queued_ms},
            {"first_token_ms", t.first_token_ms},
            {"total_ms", t.total_ms},
            {"tokens_per_s", TokensPerSecond(answer)}}}};
}

nlohmann::ordered_json UserMessage(const std::string& content) {
  return {{"role", "user"}, {"content", content}};
}

ChatPrompt AsChat(nlohmann::ordered_json messages) {
  ChatPrompt chat;
  chat.messages = std::move(messages);
  chat.variables = nlohmann::ordered_json::object();
  return chat;
}

// Runs the request to its end; `print` its text as it comes.
absl::StatusOr<Answer> Generate(Engine* engine, GenerateRequest request, bool print) {
  HOSTLER_ASSIGN_OR_RETURN(const std::shared_ptr<GenerateStream> stream,
                           engine->Submit(std::move(request)));
  Answer answer;
  while (std::optional<GenerateEvent> event = stream->Pop()) {
    answer.text += event->text;
    answer.token_ids.insert(answer.token_ids.end(), event->token_ids.begin(),
                            event->token_ids.end());
    if (event->finish_reason) answer.finish_reason = *event->finish_reason;
    if (!print || event->text.empty()) continue;
    std::fwrite(event->text.data(), 1, event->text.size(), stdout);
    std::fflush(stdout);
  }
  HOSTLER_RETURN_IF_ERROR(stream->status());
  answer.usage = stream->usage();
  answer.timings = stream->timings();
  return answer;
}

void PrintSpeed(const Answer& answer) {
  if (isatty(STDERR_FILENO) == 0) return;
  fmt::print(stderr, "[{} prompt tokens, first token after {:.0f} ms, {} tokens at {:.1f}/s, {}]\n",
             answer.usage.prompt_tokens, answer.timings.first_token_ms,
             answer.usage.completion_tokens, TokensPerSecond(answer),
             FinishReasonName(answer.finish_reason));
}

// The prompt as the flags and stdin give it.
absl::StatusOr<GenerateRequest> MakeRequest(const RunFlags& flags) {
  GenerateRequest request = flags.request;
  if (flags.tokens) {
    HOSTLER_ASSIGN_OR_RETURN(request.prompt, ReadTokensFlag(*flags.tokens));
    return request;
  }
  std::string text;
  if (flags.prompt) {
    text = *flags.prompt;
  } else {
    text = ReadStdin();
    if (text.ends_with('\n')) text.pop_back();
  }
  if (flags.chat) {
    request.prompt = AsChat(nlohmann::ordered_json::array({UserMessage(text)}));
  } else {
    request.prompt = std::move(text);
  }
  return request;
}

int RunOnce(const RunFlags& flags) {
  absl::StatusOr<GenerateRequest> request = MakeRequest(flags);
  if (!request.ok()) return Fail(request.status());
  auto engine = LoadEngine(flags.model);
  if (!engine.ok()) return FailRunning(engine.status());
  request->arrival = std::chrono::steady_clock::now();
  const absl::StatusOr<Answer> answer =
      Generate(engine->get(), *std::move(request), /*print=*/!flags.json);
  if (!answer.ok()) return Fail(answer.status());
  if (flags.json) {
    fmt::print("{}\n", DumpLine(ToJson(*answer)));
    return FinishStdout();
  }
  if ((*engine)->tokenizer() == nullptr) fmt::print("{}", fmt::join(answer->token_ids, " "));
  fmt::print("\n");
  PrintSpeed(*answer);
  return FinishStdout();
}

int RunChat(const RunFlags& flags) {
  auto engine = LoadEngine(flags.model);
  if (!engine.ok()) return FailRunning(engine.status());
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print(stderr, "An empty line or Ctrl-D ends the chat.\n");
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  std::string next = flags.prompt.value_or("");
  for (;;) {
    if (next.empty()) {
      if (terminal) fmt::print(stderr, "> ");
      if (!std::getline(std::cin, next) || next.empty()) break;
    }
    messages.push_back(UserMessage(next));
    next.clear();
    GenerateRequest request = flags.request;
    request.arrival = std::chrono::steady_clock::now();
    request.prompt = AsChat(messages);
    const absl::StatusOr<Answer> answer =
        Generate(engine->get(), std::move(request), /*print=*/true);
    if (!answer.ok()) return Fail(answer.status());
    fmt::print("\n");
    PrintSpeed(*answer);
    messages.push_back({{"role", "assistant"}, {"content", answer->text}});
  }
  return FinishStdout();
}

int Run(RunFlags flags) {
  const auto usage = [](const char* problem) { return Fail(absl::InvalidArgumentError(problem)); };
  if (flags.interactive && (flags.json || flags.tokens)) {
    return usage("-i takes neither --json nor --tokens");
  }
  if (flags.chat && flags.tokens) return usage("--chat needs text, not --tokens");
  const bool stdin_is_terminal = isatty(STDIN_FILENO) != 0;
  if (!flags.interactive && !flags.prompt && !flags.tokens && stdin_is_terminal) {
    return usage("no prompt: give --prompt, --tokens, -i or text on stdin");
  }
  flags.request.id = "run";
  flags.request.max_tokens = flags.max_tokens;
  flags.request.sampling.temperature = flags.temperature;
  // The model's own penalty would make "greedy" something else.
  flags.request.sampling.repetition_penalty = 1;
  return flags.interactive ? RunChat(flags) : RunOnce(flags);
}

void AddSamplingFlags(CLI::App* command, RunFlags* flags) {
  SamplingParams& sampling = flags->request.sampling;
  command->add_option("--temperature", flags->temperature, "0 is greedy")->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "Of the k most likely tokens only; 0: off");
  command->add_option("--top-p", sampling.top_p, "Of the most likely tokens up to this share");
  command->add_option("--min-p", sampling.min_p,
                      "Of tokens at least this likely relative to the likeliest");
  command->add_option("--seed", sampling.seed, "Same seed, same tokens; default: random");
}

}  // namespace

void AddRunCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<RunFlags>();
  flags->request.add_special_tokens = false;
  CLI::App* command = app->add_subcommand(
      "run",
      "Continue a prompt, or chat, in the terminal. Without --prompt or --tokens the prompt is\n"
      "read from stdin, less one newline at its end. Decoding is greedy unless --temperature\n"
      "is given");
  AddModelFlags(command, &flags->model);
  command->add_option("--prompt", flags->prompt, "The prompt's text")->type_name("TEXT");
  command
      ->add_option("--tokens", flags->tokens,
                   "The prompt as token ids: 1,2,3 or @FILE; needs no tokenizer")
      ->type_name("IDS")
      ->excludes("--prompt");
  command->add_option("--max-tokens", flags->max_tokens, "Tokens to generate at most")
      ->check(Between(1, 1 << 24))
      ->capture_default_str();
  command->add_flag("--chat", flags->chat, "Apply the model's chat template to the prompt");
  command->add_flag("-i,--interactive", flags->interactive,
                    "Chat with the model's chat template, line by line, keeping the history");
  AddSamplingFlags(command, flags.get());
  command->add_option("--stop", flags->request.stop, "Stop before this text; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", flags->request.ignore_eos, "Do not stop at the end token");
  command->add_flag("--add-special", flags->request.add_special_tokens,
                    "Add the BOS that the tokenizer adds to a prompt");
  command->add_flag("--json", flags->json,
                    "Print {\"text\",\"token_ids\",\"finish_reason\",\"timings\"} when done");
  command->footer(
      "Examples:\n"
      "  hostler run --model models/sample-moe --prompt 'Once upon a time' --max-tokens 64\n"
      "  hostler run models/sample-moe -i --temperature 0.8");
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace hostler
