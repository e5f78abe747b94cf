// AnswerReader: what an upstream answers, as events.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/json.h"
#include "engine/engine/request.h"

namespace hostler {

// Reads one answer of /chat/completions or /completions. Not thread-safe.
class AnswerReader {
 public:
  struct Options {
    std::string upstream;  // its name, for errors
    int n = 1;             // sequences asked for
    bool chat = false;
    bool pass_through = false;  // events carry their JSON (GenerateEvent::wire)
    bool hide_usage = false;    // ... but for the chunk that has nothing but the usage
  };

  explicit AnswerReader(Options options);

  // One event's data. Appends what it says. Errors: BadAnswer for what is no such
  // answer; what the upstream itself reports, with its WireError.
  absl::Status ReadChunk(std::string data, std::vector<GenerateEvent>* events);
  // An answer that is not streamed.
  absl::Status ReadWhole(std::string body, std::vector<GenerateEvent>* events);

  // Whether every sequence that was begun was ended, and any was.
  bool complete() const;
  // As the upstream told, else as counted, without the prompt.
  const Usage& usage() const { return usage_; }
  bool usage_told() const { return usage_told_; }
  // The last error was one that the upstream reported.
  bool reported() const { return reported_; }

 private:
  absl::StatusOr<Json> Parse(std::string_view text);
  absl::Status ReadChoices(const Json& answer, bool whole, std::vector<GenerateEvent>* events);
  absl::Status ReadChoice(const Json& choice, bool whole, GenerateEvent* event);
  void ReadUsage(const Json& answer);
  absl::Status Broken(std::string_view what) const;

  const Options options_;
  std::vector<bool> begun_, ended_;  // of each sequence
  Usage usage_;
  bool usage_told_ = false;
  bool reported_ = false;
};

}  // namespace hostler
