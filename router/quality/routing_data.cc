#include "router/quality/routing_data.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

using Json = nlohmann::json;

absl::Status BadLine(const std::string& file, int line, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("{}:{}: {}", file, line, what));
}

using UseObject = std::function<absl::Status(int line, const Json& object)>;

absl::Status ReadLines(const std::string& file, const UseObject& use) {
  std::ifstream in(file);
  if (!in) return absl::NotFoundError(fmt::format("cannot open {}", file));
  std::string text;
  for (int line = 1; std::getline(in, text); ++line) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Json object = Json::parse(text, nullptr, false);
    if (object.is_discarded()) return BadLine(file, line, "not JSON");
    if (!object.is_object()) return BadLine(file, line, "not a JSON object");
    HOSTLER_RETURN_IF_ERROR(use(line, object));
  }
  if (in.bad()) return absl::UnavailableError(fmt::format("cannot read {}", file));
  return absl::OkStatus();
}

std::string SetName(const std::string& file) {
  std::string name = std::filesystem::path(file).stem().string();
  for (const std::string_view split : {"_train", "_val", "_test"}) {
    if (name.ends_with(split)) return name.substr(0, name.size() - split.size());
  }
  return name;
}

std::string Text(const Json& object, const char* field) {
  const auto it = object.find(field);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

// Reads {model: number in [0, most]}.
absl::Status ReadByModel(const Json& object, const std::string& field, double most,
                         std::vector<std::string>* models, std::vector<float>* values) {
  const auto it = object.find(field);
  if (it == object.end() || !it->is_object() || it->empty()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is not an object of models", field));
  }
  for (const auto& [model, value] : it->items()) {
    const bool number = value.is_number() || value.is_boolean();
    const double as_number = value.is_boolean() ? value.get<bool>()
                             : number           ? value.get<double>()
                                                : -1;
    if (!number || !(as_number >= 0 && as_number <= most)) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" of {} is not a number from 0 to {}", field, model, most));
    }
    models->push_back(model);
    values->push_back(static_cast<float>(as_number));
  }
  return absl::OkStatus();
}

absl::Status ReadEmbedding(const Json& object, std::vector<float>* out) {
  const auto it = object.find("embedding");
  if (it == object.end()) return absl::OkStatus();
  if (!it->is_array()) return absl::InvalidArgumentError("\"embedding\" is not an array");
  for (const Json& value : *it) {
    if (!value.is_number() || !std::isfinite(value.get<float>())) {
      return absl::InvalidArgumentError("\"embedding\" holds what is not a number");
    }
    out->push_back(value.get<float>());
  }
  return absl::OkStatus();
}

// A row and its models; what is wrong in it.
absl::Status ReadRow(const Json& object, const std::string& labels, RoutingSet* set,
                     RoutingRow* row) {
  row->id = Text(object, "id");
  row->subject = Text(object, "subject");
  row->prompt = Text(object, "prompt");
  std::vector<std::string> models;
  HOSTLER_RETURN_IF_ERROR(ReadByModel(object, labels, 1, &models, &row->quality));
  if (set->models.empty()) set->models = models;
  if (models != set->models) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" names other models than the set's first row", labels));
  }
  if (object.contains("response_tokens")) {
    std::vector<std::string> answered;
    HOSTLER_RETURN_IF_ERROR(ReadByModel(object, "response_tokens", 1e9, &answered, &row->tokens));
    if (answered != models) {
      return absl::InvalidArgumentError("\"response_tokens\" names other models than the labels");
    }
  }
  if (const auto it = object.find("prompt_tokens"); it != object.end()) {
    if (!it->is_number() || !(it->get<double>() >= 0)) {
      return absl::InvalidArgumentError("\"prompt_tokens\" is not a number of at least 0");
    }
    row->prompt_tokens = it->get<double>();
  }
  if (const auto it = object.find("fold"); it != object.end()) {
    if (!it->is_number_unsigned() || it->get<uint64_t>() >= kMaxFolds) {
      return absl::InvalidArgumentError(
          fmt::format("\"fold\" is not a whole number below {}", kMaxFolds));
    }
    row->fold = it->get<int>();
  }
  return ReadEmbedding(object, &row->embedding);
}

struct Prompts {
  std::unordered_map<std::string, std::pair<std::string, std::string>> by_id;  // prompt, subject

  void Add(const std::string& id, std::string prompt, std::string subject) {
    if (!id.empty() && !prompt.empty()) by_id.emplace(id, std::pair(prompt, subject));
  }
};

absl::Status ReadPrices(const std::string& file, std::vector<RoutingSet>* sets) {
  std::ifstream in(file);
  if (!in) return absl::NotFoundError(fmt::format("cannot open {}", file));
  const Json all = Json::parse(in, nullptr, false);
  if (!all.is_object()) return absl::InvalidArgumentError(file + ": not a JSON object");
  const auto price = [](const Json& entry, const char* field) {
    const bool known = entry.is_object() && entry.contains(field) && entry[field].is_number();
    return known ? entry[field].get<double>() : -1;
  };
  for (RoutingSet& set : *sets) {
    if (!all.contains(set.name) || !all[set.name].is_object()) continue;
    for (size_t m = 0; m < set.models.size(); ++m) {
      const Json entry = all[set.name].value(set.models[m], Json());
      set.prices[m] = {price(entry, "in"), price(entry, "out")};
      if (!(set.prices[m].input >= 0) || !(set.prices[m].output >= 0)) {
        return absl::InvalidArgumentError(
            fmt::format("{}: \"{}\" has no prices of {}", file, set.name, set.models[m]));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<RoutingSet>> ReadRoutingData(const RoutingDataOptions& options) {
  std::vector<RoutingSet> sets;
  Prompts prompts;
  for (const std::string& file : options.prompts) {
    HOSTLER_RETURN_IF_ERROR(ReadLines(file, [&](int, const Json& object) {
      prompts.Add(Text(object, "id"), Text(object, "prompt"), Text(object, "subject"));
      return absl::OkStatus();
    }));
  }
  struct Wanted {
    size_t set, row;
    std::string where;
  };
  std::vector<Wanted> wanted;  // rows without a prompt
  for (const std::string& file : options.files) {
    const std::string name = SetName(file);
    auto set =
        std::find_if(sets.begin(), sets.end(), [&](const auto& s) { return s.name == name; });
    if (set == sets.end()) set = sets.insert(sets.end(), RoutingSet{.name = name});
    const size_t before = set->rows.size();
    HOSTLER_RETURN_IF_ERROR(ReadLines(file, [&](int line, const Json& object) {
      RoutingRow row;
      const absl::Status read = ReadRow(object, options.labels, &*set, &row);
      if (!read.ok()) return BadLine(file, line, std::string(read.message()));
      if (row.prompt.empty()) {
        wanted.push_back({static_cast<size_t>(set - sets.begin()), set->rows.size(),
                          fmt::format("{}:{}", file, line)});
      } else {
        prompts.Add(row.id, row.prompt, row.subject);
      }
      set->rows.push_back(std::move(row));
      return absl::OkStatus();
    }));
    if (set->rows.size() == before) return absl::InvalidArgumentError(file + ": no rows");
  }
  for (const Wanted& want : wanted) {
    RoutingRow& row = sets[want.set].rows[want.row];
    const auto it = prompts.by_id.find(row.id);
    if (it == prompts.by_id.end()) {
      return absl::InvalidArgumentError(
          fmt::format("{}: no \"prompt\", and none of id \"{}\" in the other files; name a file "
                      "that has it with --prompts",
                      want.where, row.id));
    }
    row.prompt = it->second.first;
    if (row.subject.empty()) row.subject = it->second.second;
  }
  for (RoutingSet& set : sets) set.prices.resize(set.models.size());
  if (!options.prices.empty()) HOSTLER_RETURN_IF_ERROR(ReadPrices(options.prices, &sets));
  return sets;
}

}  // namespace hostler
