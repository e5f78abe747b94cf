// Context: the limits, errors and shared state of one rendering.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/text/jinja/value.h"
#include "fmt/format.h"

namespace hostler::jinja {

// What a rendering may use. A step is the evaluation of one expression or
// statement; copying text and building lists count in proportion.
struct Limits {
  uint64_t steps = 20'000'000;
  size_t output_bytes = size_t{64} << 20;
  size_t string_bytes = size_t{64} << 20;  // of any one string
  int depth = 1500;                        // of nested evaluation
};

// The first error sticks: later ones are ignored, and whoever computes on
// after it does so for nothing. Functions that fail return undefined.
class Context {
 public:
  explicit Context(const Limits& limits) : limits_(limits) {}
  ~Context() {
    // Namespaces may hold values that refer to other namespaces.
    for (Namespace& space : namespaces_) space.attributes.clear();
  }
  Context(const Context&) = delete;

  bool failed() const { return failed_; }
  const std::string& error() const { return error_; }
  bool raised() const { return raised_; }
  int line() const { return line_; }
  const Limits& limits() const { return limits_; }

  // The line that errors name.
  void set_line(int line) {
    if (!failed_) line_ = line;
  }

  template <typename... Args>
  Value Fail(fmt::format_string<Args...> format, Args&&... args) {
    if (!failed_) {
      failed_ = true;
      error_ = fmt::format(format, std::forward<Args>(args)...);
    }
    return Value();
  }

  // Fails with the template's own words.
  Value Raise(const std::string& words) {
    if (!failed_) raised_ = true;
    return Fail("{}", words);
  }

  // Takes the error away, for what raises it later (generators).
  std::string TakeError() {
    failed_ = false;
    return std::exchange(error_, std::string());
  }

  // False, with an error, when the steps are used up.
  bool Charge(uint64_t steps) {
    used_ += steps;
    if (used_ <= limits_.steps) return !failed_;
    Fail("the template takes more than {} steps", limits_.steps);
    return false;
  }

  // Whether a string of that many bytes may be made.
  bool CheckSize(double bytes) {
    if (bytes <= static_cast<double>(limits_.string_bytes)) return !failed_;
    Fail("a string of {:.0f} bytes is too long", bytes);
    return false;
  }

  Value NewString(std::string text) {
    if (!Charge(1 + text.size() / 32) || !CheckSize(static_cast<double>(text.size())))
      return Value();
    return Value::String(std::move(text));
  }

  Value NewList(ValueList items, Kind kind = Kind::kList) {
    return NewSequence(Sequence{.items = std::move(items)}, kind);
  }
  Value NewSequence(Sequence sequence, Kind kind) {
    if (!Charge(4 + sequence.items.size())) return Value();
    return CheckBounds(Value::Of(std::move(sequence), kind));
  }
  Value NewDict(Dict dict) {
    if (!Charge(4 + 8 * dict.entries.size())) return Value();
    return CheckBounds(Value::Of(std::move(dict)));
  }
  Namespace* NewNamespace() {
    Charge(64);
    return &namespaces_.emplace_back();
  }

  // Nested evaluation: true unless it is too deep. Leave() follows each Enter().
  bool Enter() {
    if (++depth_ <= limits_.depth) return !failed_;
    Fail("recursion deeper than {}", limits_.depth);
    return false;
  }
  void Leave() { --depth_; }

 private:
  Value CheckBounds(Value value) {
    if (value.depth() > kMaxNesting) return Fail("lists nested deeper than {}", kMaxNesting);
    if (value.weight() > kMaxWeight) return Fail("a list with too much in it");
    return value;
  }

  const Limits limits_;
  bool failed_ = false;
  bool raised_ = false;
  std::string error_;
  int line_ = 0;
  uint64_t used_ = 0;
  int depth_ = 0;
  std::deque<Namespace> namespaces_;
};

// Enter and Leave as a scope.
class DepthGuard {
 public:
  explicit DepthGuard(Context* context) : context_(context), ok_(context->Enter()) {}
  ~DepthGuard() { context_->Leave(); }
  DepthGuard(const DepthGuard&) = delete;
  bool ok() const { return ok_; }

 private:
  Context* context_;
  bool ok_;
};

}  // namespace hostler::jinja
