#include "server/plan/measure_machine.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "cache/reader.h"
#include "cache/tier.h"
#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/compute/backend.h"
#include "engine/engine/device.h"
#include "engine/engine/model_needs.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr std::array<uint64_t, 3> kReadBytes = {kMiB / 4, kMiB, 4 * kMiB};
constexpr std::array kDepths = {1, 2, 4, 8};
constexpr std::array kRows = {1, 8, 64, 512};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Calls a second. The best of three: what else runs only slows down.
template <typename Call>
double CallsPerSecond(double seconds, Call call) {
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const Clock::time_point start = Clock::now();
    int calls = 0;
    do {
      call(calls++);
    } while (SecondsSince(start) < seconds / 3);
    best = std::max(best, calls / SecondsSince(start));
  }
  return best;
}

// Much more than a GPU's caches hold.
constexpr uint64_t kDeviceMemoryBytes = 256 * kMiB;

// Much more than the processor's caches hold, of which even random replacement then keeps
// little; a quarter of the memory at most.
uint64_t MemoryBytes(const MeasureOptions& options) {
  if (options.memory_bytes > 0) return options.memory_bytes;
  const uint64_t cache = static_cast<uint64_t>(std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), 0L));
  return std::max(256 * kMiB, std::min(4 * cache, UsableMemoryBytes() / 4)) / kMiB * kMiB;
}

// -- The disk -----------------------------------------------------------------

// A file to read from: the one given, or one of its own in the folder given,
// which has no name and goes with the object, however this process ends.
class DiskFile {
 public:
  static absl::StatusOr<std::unique_ptr<DiskFile>> Open(const std::string& path, uint64_t bytes) {
    std::unique_ptr<DiskFile> file(new DiskFile);
    std::error_code error;
    if (std::filesystem::is_directory(path, error)) {
      HOSTLER_RETURN_IF_ERROR(file->Write(path, bytes));
    } else {
      file->path_ = path;
    }
    file->bytes_ = std::filesystem::file_size(file->path_, error);  // of files alone
    if (error) return absl::NotFoundError(fmt::format("{}: {}", path, error.message()));
    if (file->bytes_ < 64 * kMiB) {
      return absl::FailedPreconditionError(
          fmt::format("{}: too small to measure a disk with; give a folder", path));
    }
    return file;
  }
  ~DiskFile() {
    if (own_ >= 0) close(own_);
  }

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }

 private:
  DiskFile() = default;

  absl::Status Write(const std::string& folder, uint64_t bytes) {
    std::string name = folder + "/hostler-profile-XXXXXX";
    own_ = mkostemp(name.data(), O_CLOEXEC);
    if (own_ < 0) return absl::UnavailableError(fmt::format("{}: cannot be written", folder));
    unlink(name.c_str());
    path_ = fmt::format("/proc/self/fd/{}", own_);
    // Not zeros, which some file systems do not store.
    std::vector<uint64_t> block(kMiB / sizeof(uint64_t));
    std::mt19937_64 random(1);
    bool written = true;
    for (uint64_t at = 0; at < bytes && written; at += kMiB) {
      for (uint64_t& word : block) word = random();
      written = write(own_, block.data(), kMiB) == static_cast<ssize_t>(kMiB);
    }
    written = fsync(own_) == 0 && written;
    return written ? absl::OkStatus()
                   : absl::UnavailableError(
                         fmt::format("{}: {} MiB cannot be written", folder, bytes / kMiB));
  }

  std::string path_;
  uint64_t bytes_ = 0;
  int own_ = -1;  // the descriptor of a file of its own
};

// Random reads of one size, so many at once.
absl::StatusOr<double> DiskBytesPerSecond(Reader& reader, Tier& slots, uint64_t file_bytes,
                                          uint64_t read_bytes, int depth, double seconds) {
  std::mt19937_64 random(read_bytes + depth);
  std::vector<Extent> extents(depth);
  const auto start_read = [&](int id) {
    extents[id] = {0, random() % (file_bytes / read_bytes) * read_bytes, read_bytes};
    reader.Start(id, {&extents[id], 1}, slots.slot(id));
  };
  const Clock::time_point start = Clock::now();
  for (int id = 0; id < depth; ++id) start_read(id);
  int under_way = depth;
  uint64_t bytes = 0;
  absl::Status status;
  while (under_way > 0) {
    Reader::Done done;
    if (!reader.Wait(&done)) return absl::CancelledError("the reader was stopped");
    --under_way;
    bytes += read_bytes;
    if (!done.status.ok()) status = done.status;
    if (!status.ok() || SecondsSince(start) > seconds) continue;
    start_read(done.id);
    ++under_way;
  }
  HOSTLER_RETURN_IF_ERROR(status);
  return static_cast<double>(bytes) / SecondsSince(start);
}

absl::Status MeasureDisk(const MeasureOptions& options, MachineProfile* profile) {
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<DiskFile> file,
                           DiskFile::Open(options.disk, options.file_bytes));
  ReaderOptions reads;
  reads.depth = kDepths.back();
  reads.max_bytes = kReadBytes.back();
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader,
                           NewReader({&file->path(), 1}, reads));
  const SlotClass slot{kReadBytes.back(), reads.depth};
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<Tier> slots, NewDramTier({&slot, 1}));
  profile->disk_path = options.disk;
  profile->reader = reader->name();
  profile->past_page_cache = reader->direct();
  for (const uint64_t bytes : kReadBytes) {
    for (const int depth : kDepths) {
      HOSTLER_ASSIGN_OR_RETURN(
          const double bytes_s,
          DiskBytesPerSecond(*reader, *slots, file->bytes(), bytes, depth, options.seconds));
      profile->disk.push_back({bytes, depth, bytes_s});
    }
  }
  return absl::OkStatus();
}

// -- Memory -------------------------------------------------------------------

double MemoryBytesPerSecond(std::span<const uint64_t> words, int threads, double seconds) {
  constexpr size_t kLineWords = 64 / sizeof(uint64_t), kWordsAhead = 8192 / sizeof(uint64_t);
  std::atomic<uint64_t> bytes{0}, sums{0};
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> readers;
  for (int t = 0; t < threads; ++t) {
    readers.emplace_back([&, t] {
      const std::span<const uint64_t> part =
          words.subspan(words.size() / threads * t, words.size() / threads);
      uint64_t sum = 0;
      do {
        // A word brings its whole line. Kernels prefetch as well.
        for (size_t i = 0; i < part.size(); i += kLineWords) {
          __builtin_prefetch(part.data() + i + kWordsAhead, 0, 2);
          sum += part[i];
        }
        bytes += part.size_bytes();
      } while (SecondsSince(start) < seconds);
      sums += sum;  // so that it is computed
    });
  }
  for (std::thread& reader : readers) reader.join();
  return static_cast<double>(bytes) / SecondsSince(start);
}

// In memory as weights lie in.
absl::Status MeasureMemory(const MeasureOptions& options, Backend& backend,
                           MachineProfile* profile) {
  const double seconds = 2 * options.seconds;
  HOSTLER_ASSIGN_OR_RETURN(const auto memory, backend.Allocate(MemoryBytes(options)));
  const std::span<uint64_t> words(reinterpret_cast<uint64_t*>(memory->data()),
                                  memory->bytes() / sizeof(uint64_t));
  std::fill(words.begin(), words.end(), 1);
  for (int attempt = 0; attempt < 3; ++attempt) {
    profile->memory_bytes_s_1 =
        std::max(profile->memory_bytes_s_1, MemoryBytesPerSecond(words, 1, seconds / 3));
    profile->memory_bytes_s = std::max(profile->memory_bytes_s,
                                       MemoryBytesPerSecond(words, profile->threads, seconds / 3));
  }
  return absl::OkStatus();
}

// -- The kernels --------------------------------------------------------------

Mat AsMat(Buffer& buffer, int64_t rows, int64_t cols) {
  return {reinterpret_cast<float*>(buffer.data()), rows, cols};
}

// Calls a second of what `call` queues; a device is waited for after some of them.
template <typename Call>
double OperationsPerSecond(Backend& backend, double seconds, Call call) {
  const int between_waits = backend.SharesHostMemory() ? 1 : 32;
  return between_waits * CallsPerSecond(seconds, [&](int turn) {
           for (int i = 0; i < between_waits; ++i) call(turn * between_waits + i);
           // Of no rows: it only waits.
           if (between_waits > 1) backend.ReadBack({}, nullptr).IgnoreError();
         });
}

// Matrices in turn, so that a token's weights come from memory as they do when
// a model decodes.
absl::Status MeasureKernels(const MeasureOptions& options, Backend& backend,
                            MachineProfile::Kernels* kernels) {
  const int64_t dim = options.dim;
  const bool on_host = backend.SharesHostMemory();
  HOSTLER_ASSIGN_OR_RETURN(const auto weights,
                           backend.Allocate(on_host ? MemoryBytes(options) : kDeviceMemoryBytes));
  HOSTLER_ASSIGN_OR_RETURN(const auto x, backend.Allocate(kRows.back() * dim * sizeof(float)));
  HOSTLER_ASSIGN_OR_RETURN(const auto y, backend.Allocate(kRows.back() * dim * sizeof(float)));
  // An ordinary number in every other type, also where it is a block's scale:
  // denormal products would be slow. A device has zeros, which are not.
  constexpr int kWeightByte = 0x11;
  if (on_host) std::fill_n(AsMat(*x, 1, 1).data, kRows.back() * dim, 0.5f);
  for (int i = 0; i < kDTypes; ++i) {
    const DType type = static_cast<DType>(i);
    // FP8 is held as bf16.
    if (!IsWeightType(type) || type == DType::kF8E4M3) continue;
    // As MXFP4's scale 0x11 is 2^-110, 0x77 is 2^-8.
    if (on_host) {
      std::memset(weights->data(), type == DType::kMXFP4 ? 0x77 : kWeightByte, weights->bytes());
    }
    const size_t bytes = RowBytes(type, dim) * dim;
    const bool interleaved = CanInterleave(type) && backend.Interleaves(type);
    const size_t matrices = weights->bytes() / bytes;
    for (const int rows : kRows) {
      if (rows > options.most_rows) break;
      const auto multiply = [&](int turn) {
        backend.MatMul({type, dim, dim, weights->data() + turn % matrices * bytes, interleaved},
                       AsMat(*x, rows, dim), AsMat(*y, rows, dim));
      };
      const double macs = static_cast<double>(rows) * dim * dim;
      (*kernels)[type].push_back(
          {rows, macs * OperationsPerSecond(backend, options.seconds, multiply)});
    }
  }
  return backend.ReadBack({}, nullptr);
}

// An operation too small to be shared between threads: what waking them costs is
// in the kernels' numbers.
absl::StatusOr<double> MeasureOperation(Backend& backend, double seconds) {
  constexpr int64_t kOperationDim = 64;
  HOSTLER_ASSIGN_OR_RETURN(const auto memory, backend.Allocate(kMiB));
  const Weight weight{DType::kF32, kOperationDim, kOperationDim, memory->data()};
  const Mat x{reinterpret_cast<float*>(memory->data() + weight.bytes()), 1, kOperationDim};
  const Mat y{x.data + kOperationDim, 1, kOperationDim};
  return 1 / OperationsPerSecond(backend, seconds, [&](int) { backend.MatMul(weight, x, y); });
}

absl::StatusOr<MachineProfile::GpuProfile> MeasureGpuProfile(const MeasureOptions& options,
                                                             const std::string& device) {
  EngineOptions engine;
  engine.device = device;
  HOSTLER_ASSIGN_OR_RETURN(const std::optional<Gpu> gpu, FindGpu(device));
  if (!gpu.has_value()) return absl::InvalidArgumentError(fmt::format("{} is no GPU", device));
  HOSTLER_ASSIGN_OR_RETURN(const GpuSpeed speed, MeasureDevice(device, options.seconds));
  HOSTLER_ASSIGN_OR_RETURN(const auto backend, NewBackend(engine));
  MachineProfile::GpuProfile profile;
  profile.name = gpu->name;
  profile.backend = backend->name();
  profile.memory_bytes = gpu->memory_bytes;
  profile.memory_bytes_s = speed.memory_bytes_s;
  profile.to_device_bytes_s = speed.to_device_bytes_s;
  profile.to_host_bytes_s = speed.to_host_bytes_s;
  HOSTLER_RETURN_IF_ERROR(MeasureKernels(options, *backend, &profile.kernels));
  HOSTLER_ASSIGN_OR_RETURN(profile.operation_s, MeasureOperation(*backend, options.seconds));
  return profile;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

}  // namespace

absl::StatusOr<MachineProfile> MeasureMachine(
    const MeasureOptions& options, const std::function<void(const std::string&)>& progress) {
  MachineProfile profile;
  EngineOptions engine;
  engine.threads = options.threads;
  profile.threads = ThreadsFor(engine);
  profile.cpu = CpuName();
  HOSTLER_ASSIGN_OR_RETURN(const auto backend, NewCpuBackend(profile.threads));
  profile.backend = backend->name();
  progress("the disk");
  HOSTLER_RETURN_IF_ERROR(MeasureDisk(options, &profile));
  progress("memory");
  HOSTLER_RETURN_IF_ERROR(MeasureMemory(options, *backend, &profile));
  progress("kernels");
  HOSTLER_RETURN_IF_ERROR(MeasureKernels(options, *backend, &profile.kernels));
  HOSTLER_ASSIGN_OR_RETURN(profile.operation_s, MeasureOperation(*backend, options.seconds));
  for (const std::string& device : options.devices) {
    progress(device);
    HOSTLER_ASSIGN_OR_RETURN(profile.gpus.emplace_back(), MeasureGpuProfile(options, device));
  }
  return profile;
}

}  // namespace hostler
