#include "server/commands/npy.h"

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "fmt/format.h"

namespace hostler {

static_assert(std::endian::native == std::endian::little, "the file holds '<f4'");

absl::Status WriteNpy(const std::string& path, int64_t rows, int64_t cols,
                      std::span<const float> values) {
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, cols);
  // Magic, version and length take 10 bytes; data begins at a multiple of 64.
  constexpr size_t kPreamble = 10, kAlign = 64;
  const size_t used = kPreamble + header.size() + 1;
  header.append((kAlign - used % kAlign) % kAlign, ' ');
  header += '\n';
  std::string start("\x93NUMPY\x01\x00", 8);
  start += static_cast<char>(header.size() & 0xff);
  start += static_cast<char>(header.size() >> 8);
  start += header;

  std::FILE* file = std::fopen(path.c_str(), "wb");
  bool good = file != nullptr;
  good = good && std::fwrite(start.data(), 1, start.size(), file) == start.size();
  good = good && std::fwrite(values.data(), sizeof(float), values.size(), file) == values.size();
  if (file != nullptr) good = std::fclose(file) == 0 && good;
  if (good) return absl::OkStatus();
  const std::string reason = std::strerror(errno);
  std::error_code ignored;
  // Never a device or a link that the path may name.
  if (std::filesystem::symlink_status(path, ignored).type() ==
      std::filesystem::file_type::regular) {
    std::filesystem::remove(path, ignored);
  }
  return absl::UnavailableError(fmt::format("cannot write {}: {}", path, reason));
}

}  // namespace hostler
