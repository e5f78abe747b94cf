#include "engine/text/jinja/globals.h"

#include <cstdio>
#include <ctime>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/output.h"

namespace hostler::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox has the same

Value Range(Context& context, const Arguments& arguments) {
  const size_t count = arguments.positional.size();
  if (count < 1 || count > 3) return context.Fail("range expected 1 to 3 arguments, got {}", count);
  int64_t bounds[3] = {0, 0, 1};  // start, stop, step
  for (size_t i = 0; i < count; ++i) {
    const Value& bound = arguments.positional[i];
    if (bound.is_undefined()) return context.Fail("{}", bound.undefined_message());
    bounds[count == 1 ? 1 : i] = NumberArgument(context, arguments, i, "", 0);
    if (bound.is_none()) context.Fail("'NoneType' object cannot be interpreted as an integer");
  }
  const auto [start, stop, step] = bounds;
  if (step == 0) context.Fail("range() arg 3 must not be zero");
  if (context.failed()) return {};
  Sequence range{.items = {}, .range = {start, stop, step}};
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(range.items.size()) >= kMaxRange) {
      return context.Fail("Range too big. The sandbox blocks ranges larger than {}.", kMaxRange);
    }
    range.items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return context.NewSequence(std::move(range), Kind::kRange);
}

// dict(a_dict_or_pairs, name=value, ...)
std::optional<Dict> MakeDict(Context& context, const Arguments& arguments) {
  Dict dict;
  if (arguments.positional.size() > 1) {
    context.Fail("dict expected at most 1 argument, got {}", arguments.positional.size());
    return std::nullopt;
  }
  if (!arguments.positional.empty() && arguments.positional[0].is(Kind::kDict)) {
    dict = arguments.positional[0].dict();
  } else if (!arguments.positional.empty()) {
    for (const Value& pair : Iterate(context, arguments.positional[0])) {
      const ValueList both = Iterate(context, pair);
      if (both.size() != 2)
        context.Fail("dictionary update sequence element has length {}; 2 is required",
                     both.size());
      if (context.failed()) return std::nullopt;
      if (!dict.Set(both[0], both[1])) context.Fail("unhashable type: '{}'", TypeName(both[0]));
    }
  }
  for (const auto& [name, value] : arguments.named) dict.Set(Value::String(name), value);
  return dict;
}

Value MakeDictValue(Context& context, const Arguments& arguments) {
  std::optional<Dict> dict = MakeDict(context, arguments);
  return dict.has_value() ? context.NewDict(*std::move(dict)) : Value();
}

Value MakeNamespace(Context& context, const Arguments& arguments) {
  const std::optional<Dict> dict = MakeDict(context, arguments);
  if (!dict.has_value()) return {};
  Namespace* space = context.NewNamespace();
  for (const auto& [key, value] : dict->entries) space->Set(Str(key), value);
  return Value::Of(space);
}

// cycler(a, b): an object with next(), reset() and current.
Value MakeCycler(Context& context, const Arguments& arguments) {
  if (arguments.positional.empty()) return context.Fail("at least one item has to be provided");
  Namespace* space = context.NewNamespace();
  const auto position = std::make_shared<size_t>(0);
  const auto items = std::make_shared<ValueList>(arguments.positional);
  space->Set("current", items->front());
  space->Set("next",
             Value::Of(Callable{"<bound method Cycler.next>", [=](Context&, const Arguments&) {
                                  Value now = (*items)[*position];
                                  *position = (*position + 1) % items->size();
                                  space->Set("current", (*items)[*position]);
                                  return now;
                                }}));
  space->Set("reset",
             Value::Of(Callable{"<bound method Cycler.reset>", [=](Context&, const Arguments&) {
                                  *position = 0;
                                  space->Set("current", items->front());
                                  return Value::None();
                                }}));
  return Value::Of(space);
}

// joiner(", "): a function that gives nothing the first time.
Value MakeJoiner(Context& context, const Arguments& arguments) {
  const Value separator = context.NewString(TextArgument(context, arguments, 0, "sep", ", "));
  const auto used = std::make_shared<bool>(false);
  return Value::Of(Callable{"<Joiner>", [=](Context&, const Arguments&) {
                              return std::exchange(*used, true) ? separator : Value::String("");
                            }});
}

Value RaiseException(Context& context, const Arguments& arguments) {
  const Value* words = arguments.Get(0, "message");
  return context.Raise(words == nullptr ? "" : Str(*words));
}

struct Moment {
  std::tm time = {};
  int microseconds = 0;
};

Moment ParseMoment(const std::optional<std::string>& now) {
  Moment moment;
  if (!now.has_value()) {
    std::timespec clock = {};
    std::timespec_get(&clock, TIME_UTC);
    localtime_r(&clock.tv_sec, &moment.time);
    moment.microseconds = static_cast<int>(clock.tv_nsec / 1000);
    return moment;
  }
  std::tm& t = moment.time;
  char fraction[7] = "";
  t.tm_mday = 1;
  t.tm_mon = 1;
  t.tm_year = 1970;
  std::sscanf(now->c_str(), "%4d-%2d-%2d%*1[T ]%2d:%2d:%2d.%6[0-9]", &t.tm_year, &t.tm_mon,
              &t.tm_mday, &t.tm_hour, &t.tm_min, &t.tm_sec, fraction);
  std::string digits = fraction;
  if (!digits.empty()) moment.microseconds = std::stoi(digits.append(6 - digits.size(), '0'));
  t.tm_mon -= 1;
  t.tm_year -= 1900;
  const std::time_t seconds = timegm(&t);  // finds the day of the week
  gmtime_r(&seconds, &t);
  return moment;
}

std::string FormatTime(const Moment& moment, const std::string& format) {
  // A naive time has no zone, and microseconds are unknown to C.
  std::string known;
  for (size_t i = 0; i < format.size(); ++i) {
    const char next = format[i] == '%' && i + 1 < format.size() ? format[i + 1] : '\0';
    if (next == 'f') {
      known += fmt::format("{:06d}", moment.microseconds);
      ++i;
    } else if (next == 'z' || next == 'Z') {
      ++i;
    } else {
      known.push_back(format[i]);
      if (next != '\0') known.push_back(format[++i]);
    }
  }
  // The extra space tells an empty result from one that does not fit.
  known.push_back(' ');
  std::string out(256 + 16 * known.size(), '\0');
  out.resize(std::strftime(out.data(), out.size(), known.c_str(), &moment.time));
  if (!out.empty()) out.pop_back();
  return out;
}

}  // namespace

std::vector<std::pair<std::string, Value>> Globals(const std::optional<std::string>& now) {
  std::vector<std::pair<std::string, Value>> globals;
  const auto add = [&](const char* name, auto function) {
    globals.emplace_back(name, Value::Of(Callable{fmt::format("<function {}>", name), function}));
  };
  add("range", Range);
  add("dict", MakeDictValue);
  add("namespace", MakeNamespace);
  add("cycler", MakeCycler);
  add("joiner", MakeJoiner);
  add("raise_exception", RaiseException);
  add("strftime_now", [now](Context& context, const Arguments& arguments) {
    const std::string format = TextArgument(context, arguments, 0, "format", "");
    return context.NewString(FormatTime(ParseMoment(now), format));
  });
  return globals;
}

}  // namespace hostler::jinja
