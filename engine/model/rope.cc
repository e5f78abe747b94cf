#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"

namespace hostler {
namespace {

using std::numbers::pi;

// Llama 3.1's: long waves are slowed by the factor, short ones kept, those
// between blended.
void ScaleLlama3(ConfigReader& scaling, int original, RopeSpec* rope) {
  const double factor = scaling.Double("factor", 0);
  const double low = scaling.Double("low_freq_factor", 1);
  const double high = scaling.Double("high_freq_factor", 4);
  if (!(factor > 0) || !(high > low)) {
    scaling.Fail("factor", "must be positive, and high_freq_factor above low_freq_factor");
    return;
  }
  for (float& freq : rope->inv_freq) {
    const double wavelength = 2 * pi / freq;
    const double smooth = std::clamp((original / wavelength - low) / (high - low), 0.0, 1.0);
    freq = static_cast<float>((1 - smooth) * freq / factor + smooth * freq);
  }
}

// `stretch` is the factor where none is given.
void ScaleYarn(ConfigReader& scaling, int dims, double theta, int original, double stretch,
               RopeSpec* rope) {
  const double factor = scaling.Double("factor", stretch);
  const double fast = scaling.Double("beta_fast", 32), slow = scaling.Double("beta_slow", 1);
  if (!(factor > 0) || !(fast > 0) || !(slow > 0)) {
    scaling.Fail("factor", "and betas must be positive");
    return;
  }
  // The dimension that turns `rotations` times over the original context.
  const auto dimension = [&](double rotations) {
    return dims * std::log(original / (rotations * 2 * pi)) / (2 * std::log(theta));
  };
  double low = dimension(fast), high = dimension(slow);
  if (scaling.Bool("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < rope->inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    rope->inv_freq[i] =
        static_cast<float>(rope->inv_freq[i] / factor * ramp + rope->inv_freq[i] * (1 - ramp));
  }
  const double mscale = scaling.Double("mscale", 0), all = scaling.Double("mscale_all_dim", 0);
  const double by_factor = mscale != 0 && all != 0
                               ? YarnScale(factor, mscale) / YarnScale(factor, all)
                               : YarnScale(factor, 1);
  rope->scale = static_cast<float>(scaling.Double("attention_factor", by_factor));
}

// Phi's: every frequency has its own divisor, one list for short and one for
// long sequences (LongRoPE, Ding et al. 2024).
void ScaleLongRope(ConfigReader& scaling, int original, double stretch, RopeSpec* rope) {
  const auto divided = [&](const char* key) {
    std::vector<float> freqs = rope->inv_freq;
    const std::vector<double> divisors = scaling.Doubles(key, freqs.size());
    for (size_t i = 0; i < divisors.size(); ++i) {
      if (!(divisors[i] > 0)) scaling.Fail(key, "must be positive");
      freqs[i] = static_cast<float>(freqs[i] / divisors[i]);
    }
    return freqs;
  };
  std::vector<float> short_freqs = divided("short_factor");
  rope->long_inv_freq = divided("long_factor");
  rope->inv_freq = std::move(short_freqs);
  rope->short_context = original;
  const double factor = scaling.Double("factor", stretch);
  const double by_factor =
      factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(double(original)));
  rope->scale = static_cast<float>(scaling.Double("attention_factor", by_factor));
  rope->long_scale = rope->scale;
}

}  // namespace

double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

RopeSpec MakeRope(int dims, double theta, const nlohmann::json* scaling, int max_positions,
                  ConfigReader& reader) {
  RopeSpec rope;
  if (!(theta > 1)) {
    reader.Fail("rope_theta", "must be more than 1");
    return rope;
  }
  for (int i = 0; i < dims; i += 2) {
    rope.inv_freq.push_back(static_cast<float>(1.0 / std::pow(theta, double(i) / dims)));
  }
  if (scaling == nullptr) return rope;
  ConfigReader inner(*scaling, "rope_scaling");
  const std::string type = inner.String("rope_type", inner.String("type", "default"));
  // What the model was trained with before; config.json's own counts first.
  const int original =
      reader.Int("original_max_position_embeddings", 1, 1 << 30,
                 inner.Int("original_max_position_embeddings", 1, 1 << 30, max_positions));
  const double stretch = double(max_positions) / original;
  const bool phi = type == "su" || type == "yarn";  // longrope in Phi-3's early files
  if (type == "linear") {
    const double factor = inner.Double("factor", 0);
    if (!(factor > 0)) inner.Fail("factor", "must be positive");
    for (float& freq : rope.inv_freq) freq = static_cast<float>(freq / factor);
  } else if (type == "llama3") {
    ScaleLlama3(inner, original, &rope);
  } else if (type == "longrope" || (phi && inner.Has("long_factor"))) {
    ScaleLongRope(inner, original, stretch, &rope);
  } else if (type == "yarn") {
    ScaleYarn(inner, dims, theta, original, stretch, &rope);
  } else if (type == "dynamic" && !inner.Has("alpha")) {
    // Stretches what is longer than max_position_embeddings, which is never served.
  } else if (type != "default") {
    reader.Fail("rope_scaling", fmt::format("has type \"{}\", which is not supported", type));
  }
  if (!inner.status().ok()) reader.Fail("rope_scaling", std::string(inner.status().message()));
  return rope;
}

}  // namespace hostler
