// Where the tensors of GGUF files lie among the names that the decoder binds.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hostler {

struct DecoderName {
  std::string name;
  // Its outer two dimensions are one there: [heads, a, b] is [heads * a, b].
  bool flattened = false;
};

// "blk.7.attn_q.weight" of an architecture (GGUF's word for it) is
// "model.layers.7.self_attn.q_proj.weight". Nullopt when the decoder has no use
// for such a tensor.
std::optional<DecoderName> FindDecoderName(std::string_view architecture, std::string_view name);

// The other way; the name itself when it is none of the decoder's.
std::string FindGgufName(std::string_view architecture, std::string_view decoder_name);

// True for tensors that say nothing of what the decoder computes: positions
// that the configuration took over, and layers that predict further tokens.
bool IsLeftOut(std::string_view name);

}  // namespace hostler
