// FieldReader: typed, range-checked reading of a JSON object's fields.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/json.h"

namespace hostler {

struct NumberRange {
  double low = 0;
  double high = 0;
  bool low_excluded = false;
};

// Reads fields into variables. An absent or null field leaves its variable
// alone. The first error is kept and later calls do nothing, so a caller reads
// everything and looks at status() once. `object` must outlive it.
class FieldReader {
 public:
  // `path` is the object's own name in errors: "" for the body, "messages[2]".
  FieldReader(const Json& object, std::string path);

  // The field, or null when it is absent or null or an error was met before.
  const Json* Find(std::string_view name) const;

  void Read(std::string_view name, bool* to);
  void Read(std::string_view name, std::string* to);
  void ReadInt(std::string_view name, int64_t low, int64_t high, int* to);
  void ReadInt(std::string_view name, int64_t low, int64_t high, std::optional<int>* to);
  void ReadInt(std::string_view name, int64_t low, int64_t high, std::optional<int64_t>* to);
  void ReadNumber(std::string_view name, const NumberRange& range, double* to);
  void ReadNumber(std::string_view name, const NumberRange& range, std::optional<double>* to);
  // An array of at most `max_size` token ids (0 <= id < 2^31).
  void ReadTokens(std::string_view name, size_t max_size, std::vector<int32_t>* to);

  // Note an error with the field `name` (may be a path below this object).
  void Fail(std::string_view name, std::string_view message);
  // Note an error of a reader below this one.
  void Fail(absl::Status status);

  // The name of a field in errors: "messages[2].content".
  std::string Path(std::string_view name) const;
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

 private:
  const Json& object_;
  std::string path_;
  absl::Status status_;
};

// "a string", "a number", ... of what a value is, for errors.
std::string_view JsonTypeName(const Json& value);

// A whole number within [low, high]; 5.0 counts as one. Errors: why not, to
// stand behind the field's name.
absl::StatusOr<int64_t> ToInt(const Json& value, int64_t low, int64_t high);

// The ids in a JSON array; `path` is its name in errors.
absl::StatusOr<std::vector<int32_t>> ToTokens(const Json& array, std::string_view path);

}  // namespace hostler
