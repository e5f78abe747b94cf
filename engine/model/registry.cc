#include "engine/model/registry.h"

#include <algorithm>
#include <map>
#include <string>

#include "engine/base/status.h"
#include "engine/model/architectures.h"
#include "engine/model/model_files.h"

namespace hostler {
namespace {

// The table of architectures.
constexpr Architecture kArchitectures[] = {
    {"deepseek_v2", "DeepseekV2ForCausalLM", ConfigureDeepseekV2},
    {"deepseek_v3", "DeepseekV3ForCausalLM", ConfigureDeepseekV3},
    {"ernie4_5_moe", "Ernie4_5_MoeForCausalLM", ConfigureErnie45Moe},
    {"gemma2", "Gemma2ForCausalLM", ConfigureGemma2},
    {"gemma3_text", "Gemma3ForCausalLM", ConfigureGemma3},
    {"glm4_moe", "Glm4MoeForCausalLM", ConfigureGlm4Moe},
    {"gpt_oss", "GptOssForCausalLM", ConfigureGptOss},
    {"granite", "GraniteForCausalLM", ConfigureGranite},
    {"granitemoe", "GraniteMoeForCausalLM", ConfigureGraniteMoe},
    {"llama", "LlamaForCausalLM", ConfigureLlama},
    {"llama4_text", "Llama4ForCausalLM", ConfigureLlama4},
    {"minimax_m2", "MiniMaxM2ForCausalLM", ConfigureMinimaxM2},
    {"mistral", "MistralForCausalLM", ConfigureMistral},
    {"mixtral", "MixtralForCausalLM", ConfigureMixtral},
    {"olmoe", "OlmoeForCausalLM", ConfigureOlmoe},
    {"phi3", "Phi3ForCausalLM", ConfigurePhi3},
    {"phimoe", "PhimoeForCausalLM", ConfigurePhimoe},
    {"qwen2", "Qwen2ForCausalLM", ConfigureQwen2},
    {"qwen2_moe", "Qwen2MoeForCausalLM", ConfigureQwen2Moe},
    {"qwen3", "Qwen3ForCausalLM", ConfigureQwen3},
    {"qwen3_moe", "Qwen3MoeForCausalLM", ConfigureQwen3Moe},
    {"qwen3_next", "Qwen3NextForCausalLM", ConfigureQwen3Next},
};

std::string ClassName(const nlohmann::json& config) {
  if (!config.is_object()) return "";
  const auto classes = config.find("architectures");
  const bool named = classes != config.end() && classes->is_array() && !classes->empty() &&
                     classes->front().is_string();
  return named ? classes->front().get<std::string>() : "";
}

std::string ModelType(const nlohmann::json& config) {
  if (!config.is_object()) return "";
  const auto type = config.find("model_type");
  return type != config.end() && type->is_string() ? type->get<std::string>() : "";
}

bool IsExpertTensor(std::string_view name) {
  // MoE++'s constant experts, which no cache holds.
  if (name.ends_with(".constant") || name.ends_with(".wg.weight")) return false;
  return name.find(".experts.") != std::string_view::npos ||
         name.find(".block_sparse_moe.input_linear") != std::string_view::npos ||
         name.find(".block_sparse_moe.output_linear") != std::string_view::npos;
}

uint64_t Elements(const TensorInfo& tensor) {
  const DTypeInfo& type = GetDTypeInfo(tensor.dtype);
  return tensor.bytes / type.block_bytes * type.block_elements;
}

// Parameters and bytes, from the tensors' headers.
void CountTensors(const WeightSource& weights, const PackedSource* packed, ModelInfo* info) {
  uint64_t expert_parameters = 0, expert_bytes = 0;
  std::map<DType, uint64_t> bytes_of_type;
  for (const TensorInfo& tensor : weights.tensors()) {
    info->parameters += Elements(tensor);
    info->file_bytes += tensor.bytes;
    bytes_of_type[tensor.dtype] += tensor.bytes;
    if (IsExpertTensor(tensor.name)) {
      expert_parameters += Elements(tensor);
      expert_bytes += tensor.bytes;
    }
  }
  if (packed != nullptr) {
    for (const PackedLayer& layer : packed->manifest().layers) {
      const uint64_t bytes = layer.bytes * layer.count;
      expert_parameters += layer.Parameters() * layer.count;
      expert_bytes += bytes;
      bytes_of_type[layer.gate] += bytes;
    }
    info->parameters += expert_parameters;
    info->file_bytes += expert_bytes;
  }
  info->dense_bytes = info->file_bytes - expert_bytes;
  info->active_parameters = info->parameters - expert_parameters;
  const uint64_t experts = uint64_t(info->moe_layers) * info->experts;
  if (experts > 0) {
    info->expert_bytes = expert_bytes / experts;
    info->active_parameters += expert_parameters / info->experts * info->experts_per_token;
  }
  const TensorInfo* embedding = weights.Find("model.embed_tokens.weight");
  if (embedding != nullptr && weights.Find("lm_head.weight") != nullptr) {
    info->active_parameters -= Elements(*embedding);
  }
  const auto most =
      std::max_element(bytes_of_type.begin(), bytes_of_type.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != bytes_of_type.end()) info->weight_type = GetDTypeInfo(most->first).name;
}

}  // namespace

const Architecture* FindArchitecture(const nlohmann::json& config) {
  const std::string type = ModelType(config), class_name = ClassName(config);
  for (const Architecture& row : kArchitectures) {
    if (type == row.name || (type.empty() && class_name == row.class_name)) return &row;
  }
  return nullptr;
}

std::string ArchitectureNames() {
  std::string names;
  for (const Architecture& row : kArchitectures) {
    names += names.empty() ? "" : ", ";
    names += row.name;
  }
  return names;
}

std::string ArchitectureName(const nlohmann::json& config) {
  const std::string type = ModelType(config);
  return type.empty() ? ClassName(config) : type;
}

ModelInfo DescribeModel(const std::string& path, const ModelFiles& files) {
  ModelInfo info;
  info.path = path;
  info.format = files.weights->format();
  info.architecture = ArchitectureName(files.config);
  const absl::StatusOr<DecoderConfig> decoder = files.Configure();
  if (decoder.ok()) {
    DescribeDecoder(*decoder, &info);
  } else {
    info.unsupported.emplace_back(decoder.status().message());
  }
  CountTensors(*files.weights, files.packed, &info);
  if (files.packed != nullptr) {
    info.packed = files.packed->manifest().type;
    info.packed_from = files.packed->manifest().source_format;
  }
  return info;
}

absl::StatusOr<ModelInfo> InspectModel(const std::string& path) {
  HOSTLER_ASSIGN_OR_RETURN(const ModelFiles files, OpenModelFiles(path));
  return DescribeModel(path, files);
}

}  // namespace hostler
