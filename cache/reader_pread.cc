#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "cache/reader.h"

namespace hostler {
namespace {

class PreadReader : public Reader {
 public:
  PreadReader() = default;
  ~PreadReader() override {
    for (const File& file : files_) close(file.descriptor);
  }

  absl::Status Open(const std::string& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) {
      files_.push_back({path, descriptor});
      return absl::OkStatus();
    }
    const int error = errno;
    const std::string message =
        fmt::format("{}: open: {}", path, std::generic_category().message(error));
    if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
    if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
    return absl::UnavailableError(message);
  }

  absl::Status Read(const Extent& extent, std::span<std::byte> out) override {
    const File& file = files_[extent.file];
    size_t done = 0;
    while (done < out.size()) {
      const uint64_t offset = extent.offset + done;
      const ssize_t got =
          pread(file.descriptor, out.data() + done, out.size() - done, static_cast<off_t>(offset));
      if (got > 0) {
        done += static_cast<size_t>(got);
      } else if (got == 0) {
        return absl::DataLossError(
            fmt::format("{}: the file ends before offset {}; {} bytes from offset {} were expected",
                        file.path, offset + 1, extent.bytes, extent.offset));
      } else if (errno != EINTR) {
        return absl::UnavailableError(fmt::format("{}: read at offset {}: {}", file.path, offset,
                                                  std::generic_category().message(errno)));
      }
    }
    return absl::OkStatus();
  }

 private:
  struct File {
    std::string path;
    int descriptor;
  };
  std::vector<File> files_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Reader>> NewPreadReader(std::span<const std::string> paths) {
  auto reader = std::make_unique<PreadReader>();
  for (const std::string& path : paths) {
    if (absl::Status status = reader->Open(path); !status.ok()) return status;
  }
  return reader;
}

}  // namespace hostler
