// XXH3 checksums (https://github.com/Cyan4973/xxHash): they find damage, not
// malice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace hostler {

// XXH3, 64 bits.
uint64_t Checksum(std::span<const std::byte> bytes);
uint64_t Checksum(std::string_view text);

// As 16 hexadecimal digits, and back; nullopt for anything else.
std::string ChecksumText(uint64_t checksum);
std::optional<uint64_t> ParseChecksum(std::string_view text);

// Checksum() of bytes that come in parts.
class RunningChecksum {
 public:
  RunningChecksum();
  ~RunningChecksum();
  RunningChecksum(const RunningChecksum&) = delete;
  RunningChecksum& operator=(const RunningChecksum&) = delete;

  void Add(std::span<const std::byte> bytes);
  uint64_t Get() const;

 private:
  XXH3_state_s* const state_;
};

struct Hash128 {
  uint64_t low = 0, high = 0;

  friend bool operator==(const Hash128&, const Hash128&) = default;
};

// XXH3, 128 bits: names content.
Hash128 ContentHash(std::span<const std::byte> bytes);

// The same of bytes that come in parts: names what was read.
class RunningHash128 {
 public:
  RunningHash128();
  ~RunningHash128();
  RunningHash128(const RunningHash128&) = delete;
  RunningHash128& operator=(const RunningHash128&) = delete;

  void Add(std::span<const std::byte> bytes);
  void Add(std::string_view text);
  std::string GetText() const;  // 32 hexadecimal digits

 private:
  XXH3_state_s* const state_;
};

}  // namespace hostler
