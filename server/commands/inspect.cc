// hostler inspect: what a model is, from its headers alone.

#include <memory>

#include "engine/base/bytes.h"
#include "engine/model/registry.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "nlohmann/json.hpp"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"

namespace hostler {
namespace {

struct InspectFlags {
  ModelFlags model;
  bool json = false;
};

nlohmann::ordered_json ToJson(const ModelInfo& info, int kv_value_bytes) {
  nlohmann::ordered_json json = {{"path", info.path},
                                 {"architecture", info.architecture},
                                 {"format", info.format},
                                 {"weight_type", info.weight_type},
                                 {"parameters", info.parameters},
                                 {"active_parameters", info.active_parameters},
                                 {"vocab", info.vocab},
                                 {"layers", info.layers},
                                 {"context", info.max_positions},
                                 {"dim", info.dim},
                                 {"heads", info.heads},
                                 {"kv_heads", info.kv_heads},
                                 {"head_dim", info.head_dim},
                                 {"moe_layers", info.moe_layers},
                                 {"experts", info.experts},
                                 {"experts_per_token", info.experts_per_token},
                                 {"bytes_per_expert", info.expert_bytes},
                                 {"dense_bytes", info.dense_bytes},
                                 {"kv_bytes_per_token", info.KvBytesPerToken(kv_value_bytes)},
                                 {"file_bytes", info.file_bytes},
                                 {"unsupported", info.unsupported}};
  if (!info.packed.empty()) {
    json["packed"] = {{"type", info.packed}, {"source_format", info.packed_from}};
  }
  return json;
}

// 27,857,664
std::string Grouped(uint64_t number) {
  std::string digits = std::to_string(number);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, 1, ',');
  return digits;
}

void Line(const char* name, const std::string& value) { fmt::print("{:<20}{}\n", name, value); }

void PrintShape(const ModelInfo& info, int kv_value_bytes) {
  Line("layers", fmt::format("{}, {} of them with experts", info.layers, info.moe_layers));
  if (info.moe_layers > 0) {
    Line("experts",
         fmt::format("{} per layer, {} for a token", info.experts, info.experts_per_token));
    Line("bytes per expert", FormatBytes(info.expert_bytes));
    Line("all experts", FormatBytes(info.expert_bytes * info.experts * info.moe_layers));
  }
  Line("everything else", FormatBytes(info.dense_bytes));
  Line("width", fmt::format("{}, {} query heads, {} KV heads of {}", info.dim, info.heads,
                            info.kv_heads, info.head_dim));
  Line("vocabulary", Grouped(info.vocab));
  Line("context", fmt::format("{} tokens", Grouped(info.max_positions)));
  Line("KV per token", FormatBytes(info.KvBytesPerToken(kv_value_bytes)));
}

void PrintTable(const ModelInfo& info, int kv_value_bytes) {
  Line("model", info.path);
  Line("architecture",
       fmt::format("{} ({}, {})", info.architecture, info.format, info.weight_type));
  if (!info.packed.empty()) {
    Line("packed", fmt::format("from {}, type {}", info.packed_from, info.packed));
  }
  Line("parameters", fmt::format("{}, {} active for a token", Grouped(info.parameters),
                                 Grouped(info.active_parameters)));
  // A model that is not supported is described as far as it could be read.
  if (info.layers > 0) PrintShape(info, kv_value_bytes);
  Line("files", FormatBytes(info.file_bytes));
  if (info.unsupported.empty()) {
    Line("can be served", "yes");
  } else {
    Line("can be served", fmt::format("no: {}", fmt::join(info.unsupported, "; ")));
  }
}

int Inspect(const InspectFlags& flags) {
  const absl::StatusOr<ModelInfo> info = InspectModel(flags.model.path);
  if (!info.ok()) return FailRunning(info.status());
  const int kv_value_bytes = flags.model.options.precise ? 4 : 2;
  if (flags.json) {
    fmt::print("{}\n", DumpLine(ToJson(*info, kv_value_bytes)));
  } else {
    PrintTable(*info, kv_value_bytes);
  }
  return FinishStdout();
}

}  // namespace

void AddInspectCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app->add_subcommand(
      "inspect", "Tell what a model is and whether it can be served, without loading it");
  AddModelFlags(command, &flags->model);
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer("Example:\n  hostler inspect models/sample-moe --json");
  command->callback([flags, run] { *run = [flags] { return Inspect(*flags); }; });
}

}  // namespace hostler
