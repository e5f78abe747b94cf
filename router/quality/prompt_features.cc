#include "router/quality/prompt_features.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string_view>

namespace hostler {
namespace {

constexpr size_t kMaxCharacterBytes = 1024;  // of which character n-grams are made
constexpr float kCharacterValue = 0.5f;      // beside words and pairs, which tell more
constexpr int kCharacters = 4;               // of an n-gram
constexpr uint32_t kPairSeed = 0x9e3779b9, kCharacterSeed = 0x85ebca6b, kMarkSeed = 0xc2b2ae35;

constexpr uint32_t Mix(uint32_t h) {  // MurmurHash3's finalizer
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

constexpr std::array<uint8_t, 256> kWordBytes = [] {
  std::array<uint8_t, 256> table{};  // the lower-case byte; 0: not of a word
  for (int c = 0; c < 256; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c >= 128;
    table[c] = letter ? c : c >= 'A' && c <= 'Z' ? c + 32 : 0;
  }
  return table;
}();

// Counts by hash; which ones were seen, in order.
class Counter {
 public:
  Counter(int bits, std::vector<Feature>* out) : mask_((1u << bits) - 1), out_(out) {
    static thread_local std::vector<uint16_t> slots;
    slots_ = &slots;
    if (slots.size() != kSlots) slots.assign(kSlots, 0);
    out->clear();
  }
  ~Counter() {
    for (uint32_t slot : used_slots()) (*slots_)[slot] = 0;
    used_slots().clear();
  }

  void Add(uint32_t hash) {
    const uint32_t index = Mix(hash) & mask_;
    for (uint32_t slot = index % kSlots;; slot = (slot + 1) % kSlots) {
      uint16_t& entry = (*slots_)[slot];
      if (entry == 0) {
        if (out_->size() >= kSlots / 2) return;
        out_->push_back({index, 1});
        entry = static_cast<uint16_t>(out_->size());
        used_slots().push_back(slot);
        return;
      }
      if ((*out_)[entry - 1].index == index) {
        (*out_)[entry - 1].value += 1;
        return;
      }
    }
  }

 private:
  static constexpr uint32_t kSlots = 1 << 14;  // as two bytes each they stay in the L1 cache
  static std::vector<uint32_t>& used_slots() {
    static thread_local std::vector<uint32_t> used;
    return used;
  }
  const uint32_t mask_;
  std::vector<Feature>* const out_;
  std::vector<uint16_t>* slots_;
};

void AddWords(std::string_view text, Counter* counter) {
  uint32_t hash = 0, previous = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    const uint8_t c = i < text.size() ? kWordBytes[static_cast<uint8_t>(text[i])] : 0;
    if (c != 0) {
      hash = (hash == 0 ? 2166136261u : hash) ^ c;
      hash *= 16777619u;
      continue;
    }
    if (hash == 0) continue;
    counter->Add(hash);
    if (previous != 0) counter->Add((previous * 31 + hash) ^ kPairSeed);
    previous = hash;
    hash = 0;
  }
}

void AddCharacters(std::string_view text, Counter* counter) {
  text = text.substr(0, kMaxCharacterBytes);
  uint32_t window = 0x20202020;
  static_assert(kCharacters == sizeof(window));
  for (const char raw : text) {
    const uint8_t c = kWordBytes[static_cast<uint8_t>(raw)];
    const uint8_t byte = c != 0 ? c : static_cast<uint8_t>(raw) < 33 ? ' ' : raw;
    if (byte == ' ' && (window & 0xff) == ' ') continue;
    window = (window << 8) | byte;
    counter->Add(Mix(window) ^ kCharacterSeed);
  }
}

// A share of the text, as a step of a short ladder.
uint32_t Step(size_t count, size_t bytes) {
  return count == 0 ? 0 : 1 + std::min<size_t>(7, 64 * count / std::max<size_t>(bytes, 1));
}

void AddMarks(const RoutePrompt& prompt, std::string_view text, Counter* counter) {
  size_t digits = 0, maths = 0, code = 0, lines = 0, foreign = 0;
  for (const char raw : text) {
    const uint8_t c = static_cast<uint8_t>(raw);
    digits += c >= '0' && c <= '9';
    maths += c == '=' || c == '+' || c == '^' || c == '\\' || c == '$' || c == '*' || c == '<';
    code += c == '{' || c == '}' || c == ';' || c == '`' || c == '#' || c == '_';
    lines += c == '\n';
    foreign += c >= 128;
  }
  const auto mark = [&](uint32_t kind, uint32_t value) {
    counter->Add((kind << 16 | value) ^ kMarkSeed);
  };
  mark(1, std::bit_width(prompt.text.size()));
  mark(2, Step(digits, text.size()));
  mark(3, Step(maths, text.size()));
  mark(4, Step(code, text.size()));
  mark(5, std::min<size_t>(lines, 24));
  mark(6, Step(foreign, text.size()));
  mark(7, std::min(prompt.messages, 8));
  mark(8, prompt.tools);
  mark(9, std::bit_width(prompt.context.size()));
}

}  // namespace

void HashPrompt(const RoutePrompt& prompt, int hash_bits, std::vector<Feature>* out) {
  const std::string_view text = prompt.text.substr(0, kMaxFeatureBytes / 2);
  const std::string_view rest = prompt.text.substr(text.size());
  const std::string_view end =
      rest.substr(rest.size() - std::min(rest.size(), kMaxFeatureBytes / 2));
  size_t words = 0;
  {
    Counter counter(hash_bits, out);
    AddMarks(prompt, text, &counter);
    AddWords(text, &counter);
    AddWords(end, &counter);
    words = out->size();
    AddCharacters(text, &counter);
  }
  for (Feature& feature : *out) {
    if (feature.value > 1) feature.value = 1 + std::log(feature.value);
  }
  for (size_t i = words; i < out->size(); ++i) (*out)[i].value *= kCharacterValue;
}

void WeighFeatures(std::span<const float> idf, std::vector<Feature>* features) {
  float sum = 0;
  for (Feature& feature : *features) {
    feature.value *= idf[feature.index];
    sum += feature.value * feature.value;
  }
  const float scale = sum > 0 ? 1 / std::sqrt(sum) : 0;
  for (Feature& feature : *features) feature.value *= scale;
}

}  // namespace hostler
