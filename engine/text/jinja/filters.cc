#include "engine/text/jinja/filters.h"

namespace hostler::jinja {
namespace {

Filter Find(std::string_view name) {
  const Filter filter = FindScalarFilter(name);
  return filter != nullptr ? filter : FindSequenceFilter(name);
}

}  // namespace

Value ApplyFilter(Context& context, std::string_view name, const Value& input,
                  const Arguments& arguments) {
  const Filter filter = Find(name);
  if (filter == nullptr) return context.Fail("No filter named '{}'.", name);
  if (!context.Charge(input.weight())) return {};
  return filter(context, input, arguments);
}

bool HasFilter(std::string_view name) { return Find(name) != nullptr; }

}  // namespace hostler::jinja
