// What Python's operators do with values, and how templates reach into them.
#pragma once

#include <optional>
#include <string_view>

#include "engine/text/jinja/context.h"
#include "engine/text/jinja/value.h"

namespace hostler::jinja {

// + - * / // % **
Value Arithmetic(Context& context, std::string_view op, const Value& a, const Value& b);
Value Negate(Context& context, const Value& value);

// == != < <= > >= in "not in"
bool Compare(Context& context, std::string_view op, const Value& a, const Value& b);

// Python's < for sorting.
bool Less(Context& context, const Value& a, const Value& b);

bool Contains(Context& context, const Value& container, const Value& item);

// The items of anything that can be gone through. Fails for what cannot.
ValueList Iterate(Context& context, const Value& value);
bool IsIterable(const Value& value);

// Python's len(); nullopt for what has none.
std::optional<int64_t> LengthOf(const Value& value);

// object.name and object[key], which fall back on each other as in Jinja; what
// is not there is undefined.
Value GetAttribute(Context& context, const Value& object, std::string_view name);
Value GetItem(Context& context, const Value& object, const Value& key);

// object[start:stop:step]; none where left out.
Value GetSlice(Context& context, const Value& object, const Value& start, const Value& stop,
               const Value& step);

// function(arguments)
Value Call(Context& context, const Value& function, const Arguments& arguments);

}  // namespace hostler::jinja
