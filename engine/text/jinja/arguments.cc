#include "engine/text/jinja/arguments.h"

namespace hostler::jinja {

std::string TextArgument(Context& context, const Arguments& arguments, size_t position,
                         std::string_view name, std::string_view otherwise) {
  const Value* value = arguments.Get(position, name);
  if (value == nullptr) return std::string(otherwise);
  if (value->is_string()) return value->string();
  context.Fail("argument {} must be str, not {}", position + 1, TypeName(*value));
  return {};
}

std::optional<std::string> OptionalText(Context& context, const Arguments& arguments,
                                        size_t position, std::string_view name) {
  const Value* value = arguments.Get(position, name);
  if (value == nullptr || value->is_none()) return std::nullopt;
  return TextArgument(context, arguments, position, name, "");
}

int64_t NumberArgument(Context& context, const Arguments& arguments, size_t position,
                       std::string_view name, int64_t otherwise) {
  const Value* value = arguments.Get(position, name);
  if (value == nullptr || value->is_none()) return otherwise;
  if (value->is_integer()) return value->integer();
  context.Fail("'{}' object cannot be interpreted as an integer", TypeName(*value));
  return otherwise;
}

bool Require(Context& context, const Arguments& arguments, size_t count) {
  if (arguments.positional.size() >= count) return true;
  context.Fail("expected at least {} argument{}, got {}", count, count == 1 ? "" : "s",
               arguments.positional.size());
  return false;
}

bool BoolArgument(const Arguments& arguments, size_t position, std::string_view name,
                  bool otherwise) {
  const Value* value = arguments.Get(position, name);
  return value == nullptr ? otherwise : Truth(*value);
}

}  // namespace hostler::jinja
