// Scopes: which names mean what, where.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/jinja/value.h"

namespace hostler::jinja {

// A stack of scopes; each knows the one it is written in, which for a macro's
// is not the one below.
class Scopes {
 public:
  // Names a scope; a macro keeps one of where it was defined.
  struct Handle {
    size_t index = 0;
    uint64_t serial = 0;
  };

  // Scope 0 holds what every template has, scope 1 the template's variables.
  Scopes() {
    Push({});
    Push(Top());
  }

  Handle Top() const { return {scopes_.size() - 1, scopes_.back().serial}; }

  // A scope inside `parent`; if that is gone, inside the template's.
  void Push(Handle parent) {
    const bool alive =
        parent.index < scopes_.size() && scopes_[parent.index].serial == parent.serial;
    const size_t fallback = scopes_.empty() ? 0 : 1;
    scopes_.push_back({alive ? parent.index : fallback, ++serial_, {}});
  }
  void Pop() { scopes_.pop_back(); }

  // In the innermost scope. The name must outlive the scope (the syntax tree
  // and the input do).
  void Set(std::string_view name, Value value) {
    SetIn(scopes_.size() - 1, name, std::move(value));
  }
  void SetGlobal(std::string_view name, Value value) { SetIn(0, name, std::move(value)); }

  // Null if no scope around has the name.
  const Value* Find(std::string_view name) const {
    for (size_t i = scopes_.size() - 1;; i = scopes_[i].parent) {
      for (const auto& [known, value] : scopes_[i].variables) {
        if (known == name) return &value;
      }
      if (i == 0) return nullptr;
    }
  }

 private:
  struct Scope {
    size_t parent;
    uint64_t serial;
    std::vector<std::pair<std::string_view, Value>> variables;
  };

  void SetIn(size_t index, std::string_view name, Value value) {
    for (auto& [known, old] : scopes_[index].variables) {
      if (known == name) {
        old = std::move(value);
        return;
      }
    }
    scopes_[index].variables.emplace_back(name, std::move(value));
  }

  std::vector<Scope> scopes_;
  uint64_t serial_ = 0;
};

}  // namespace hostler::jinja
