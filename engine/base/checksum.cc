#include "engine/base/checksum.h"

#include <fmt/format.h>
#ifdef __x86_64__
// The same functions, with the vectors that this CPU has.
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include <charconv>

namespace hostler {

uint64_t Checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t Checksum(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

std::string ChecksumText(uint64_t checksum) { return fmt::format("{:016x}", checksum); }

std::optional<uint64_t> ParseChecksum(std::string_view text) {
  uint64_t checksum = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, checksum, 16);
  const bool valid = text.size() == 16 && parsed.ptr == end && text[0] != '-';
  return valid ? std::optional(checksum) : std::nullopt;
}

RunningChecksum::RunningChecksum() : state_(XXH3_createState()) { XXH3_64bits_reset(state_); }
RunningChecksum::~RunningChecksum() { XXH3_freeState(state_); }

void RunningChecksum::Add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_, bytes.data(), bytes.size());
}

uint64_t RunningChecksum::Get() const { return XXH3_64bits_digest(state_); }

Hash128 ContentHash(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

RunningHash128::RunningHash128() : state_(XXH3_createState()) { XXH3_128bits_reset(state_); }
RunningHash128::~RunningHash128() { XXH3_freeState(state_); }

void RunningHash128::Add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_, bytes.data(), bytes.size());
}

void RunningHash128::Add(std::string_view text) { Add(std::as_bytes(std::span(text))); }

std::string RunningHash128::GetText() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace hostler
