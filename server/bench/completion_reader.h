// Reads the server-sent events of one streamed completion.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "server/bench/report.h"

namespace hostler {

class CompletionReader {
 public:
  // `outcome` must outlive this.
  explicit CompletionReader(Outcome* outcome) : outcome_(outcome) {}

  // Bytes that arrived at `now_s`, cut anywhere.
  void Add(std::string_view bytes, double now_s);

  // After the last byte: completes the outcome. `wanted`: output tokens.
  void Finish(int wanted, double now_s);

  int token_events() const { return token_events_; }

 private:
  void AddData(std::string_view data, double now_s);

  Outcome* outcome_;
  std::string line_;
  std::string error_;
  double last_s_ = 0;  // of the last event with tokens
  int token_events_ = 0;
  std::optional<int> completion_tokens_;  // as the server's usage says
  bool done_ = false;
};

}  // namespace hostler
