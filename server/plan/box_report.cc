#include "server/plan/box_report.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "cache/read_plan.h"
#include "cache/reader.h"
#include "cache/tier.h"
#include "engine/base/bytes.h"
#include "engine/compute/backend.h"
#include "engine/engine/device.h"
#include "engine/engine/model_needs.h"
#include "fmt/format.h"

namespace hostler {
namespace {

using Level = Finding::Level;

// The first line; nothing when there is no such file.
std::optional<std::string> FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

Finding ExamineCpu() {
  const int usable = ThreadsFor({});
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  const auto backend = NewCpuBackend(1);
  const std::string kernels = backend.ok() ? std::string((*backend)->name()) : "none";
  Finding finding{Level::kGood, "processor",
                  fmt::format("{} of {} cores usable, kernels {}", usable, all, kernels), ""};
  if (kernels == "cpu-portable") {
    finding.level = Level::kHint;
    finding.advice = "it has no AVX2, without which computing is several times slower";
  } else if (usable < all) {
    finding.level = Level::kHint;
    finding.advice = "cores are kept from this process (taskset, a container's cpuset)";
  }
  return finding;
}

Finding ExamineGovernor(const std::string& root) {
  const auto governor = FirstLine(root + "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  if (!governor) return {Level::kGood, "clock", "no governor to be seen (a virtual machine?)", ""};
  if (*governor != "powersave") return {Level::kGood, "clock", *governor, ""};
  return {Level::kHint, "clock", *governor, "cpupower frequency-set -g performance"};
}

Finding ExamineMemoryLimit() {
  const uint64_t ram = uint64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const uint64_t usable = UsableMemoryBytes();
  Finding finding{Level::kGood, "memory",
                  fmt::format("{} usable of {}", FormatBytes(usable), FormatBytes(ram)), ""};
  if (usable < (uint64_t{64} << 20)) {
    finding.level = Level::kProblem;
    finding.advice = "too little for any model: raise the container's memory limit";
  } else if (usable < ram) {
    finding.level = Level::kHint;
    finding.advice =
        "a cgroup limits this process; --memory must stay below that limit, page "
        "cache and the process itself (allow 100 MiB) included";
  }
  return finding;
}

// Slots are locked as they fill, so asking for much takes nothing.
Finding ExamineLocking() {
  const SlotClass half{UsableMemoryBytes() / 2, 1};
  const auto tier = NewDramTier({&half, 1});
  if (tier.ok() && (*tier)->locked()) {
    return {Level::kGood, "locked memory", "experts cannot be swapped out", ""};
  }
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  return {Level::kHint, "locked memory",
          fmt::format("only {} may be locked", FormatBytes(limit.rlim_cur)),
          "ulimit -l unlimited, LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK: else "
          "experts may be swapped out"};
}

Finding ExamineSwap(const std::string& root) {
  std::ifstream file(root + "/proc/meminfo");
  uint64_t total = 0, free = 0;
  for (std::string key; file >> key;) {
    if (key == "SwapTotal:") file >> total;
    if (key == "SwapFree:") file >> free;
    file.ignore(4096, '\n');
  }
  if (total == 0) return {Level::kGood, "swap", "none", ""};
  const std::string state =
      fmt::format("{} of {} in use", FormatBytes((total - free) << 10), FormatBytes(total << 10));
  if (total == free) return {Level::kGood, "swap", state, ""};
  return {Level::kHint, "swap", state,
          "the machine is short of memory: a smaller --memory reads experts instead of "
          "swapping, which is faster"};
}

Finding ExamineHugePages(const std::string& root) {
  const auto line = FirstLine(root + "/sys/kernel/mm/transparent_hugepage/enabled");
  const std::string state = line.value_or("the kernel has none");
  if (state.find("[always]") != std::string::npos || state.find("[madvise]") != std::string::npos) {
    return {Level::kGood, "huge pages", state, ""};
  }
  return {Level::kHint, "huge pages", state,
          line ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
               : "a kernel with transparent huge pages reads weights a little faster"};
}

Finding ExamineUring() {
  const auto reader = NewReader({}, {.method = ReaderOptions::Method::kUring});
  if (reader.ok()) return {Level::kGood, "io_uring", "available", ""};
  return {Level::kHint, "io_uring", std::string(reader.status().message()),
          "allow it (sysctl kernel.io_uring_disabled=0, the container's seccomp profile); "
          "threads in pread take its place"};
}

// The largest file at or below a folder, also what a link there leads to; "" when
// there is none. Looks at some thousands and not below links to folders.
std::string LargestFile(const std::string& folder) {
  namespace fs = std::filesystem;
  constexpr int kMostEntries = 20000, kMostDepth = 6;
  std::error_code error;
  std::string largest;
  uint64_t most = 0;
  fs::recursive_directory_iterator it(folder, fs::directory_options::skip_permission_denied, error);
  for (int entries = 0; !error && it != fs::end(it) && entries < kMostEntries; ++entries) {
    std::error_code unreadable;  // a link that leads nowhere, say
    const uint64_t bytes = it->is_regular_file(unreadable) ? it->file_size(unreadable) : 0;
    if (!unreadable && bytes > most) {
      most = bytes;
      largest = it->path();
    }
    if (it.depth() >= kMostDepth) it.disable_recursion_pending();
    it.increment(error);
  }
  return largest;
}

Finding ExamineDisk(const std::string& path) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  const bool folder = type == std::filesystem::file_type::directory;
  if (!folder && type != std::filesystem::file_type::regular &&
      type != std::filesystem::file_type::not_found) {
    return {Level::kProblem, "disk", fmt::format("{}: is neither a file nor a folder", path),
            "give the file or folder that models lie in"};
  }
  const std::string file = folder ? LargestFile(path) : path;
  if (file.empty()) {
    return {Level::kHint, "disk", fmt::format("{}: holds no file to try", path),
            "give the file or folder that models lie in"};
  }
  const auto files = OpenFiles::Open({&file, 1}, DirectIo::kAuto);
  if (!files.ok()) {
    return {Level::kProblem, "disk", std::string(files.status().message()),
            "the model's files must be there and readable"};
  }
  if (files->direct(0)) {
    return {Level::kGood, "disk", fmt::format("{}: read past the page cache", file), ""};
  }
  return {Level::kHint, "disk", fmt::format("{}: read through the page cache", file),
          "O_DIRECT does not work on this file system: keep the model on ext4 or xfs"};
}

}  // namespace

std::vector<Finding> ExamineGpus(const absl::StatusOr<std::vector<Gpu>>& gpus) {
  if (absl::IsFailedPrecondition(gpus.status())) {
    return {{Level::kGood, "gpu", std::string(gpus.status().message()), ""}};
  }
  if (!gpus.ok()) {
    return {
        {Level::kHint, "gpu", std::string(gpus.status().message()),
         "this build could use one: see that nvidia-smi lists it, and that its driver is as new "
         "as this build's CUDA"}};
  }
  std::vector<Finding> findings;
  for (const Gpu& gpu : *gpus) {
    Finding finding{
        Level::kGood, "gpu",
        fmt::format("cuda:{}: {}, sm {}, {} free of {}, {:.0f} GB/s by its clock; CUDA driver {}, "
                    "runtime {}; may pin what the host's memory is ({})",
                    gpu.index, gpu.name, gpu.Capability(), FormatBytes(gpu.free_bytes),
                    FormatBytes(gpu.memory_bytes), gpu.memory_bytes_s * 1e-9,
                    CudaVersion(gpu.driver), CudaVersion(gpu.runtime),
                    FormatBytes(UsableMemoryBytes())),
        ""};
    if (gpu.major < 8) {
      finding.level = Level::kHint;
      finding.advice = "older than what this build is made for (sm 8.0): its kernels do not load";
    } else if (gpu.free_bytes < gpu.memory_bytes / 2) {
      finding.level = Level::kHint;
      finding.advice = "something else holds most of its memory (nvidia-smi says what)";
    }
    findings.push_back(std::move(finding));
  }
  return findings;
}

std::vector<Finding> ExamineBox(const BoxOptions& options) {
  std::vector<Finding> findings = {
      ExamineCpu(),     ExamineGovernor(options.root), ExamineMemoryLimit(),
      ExamineLocking(), ExamineSwap(options.root),     ExamineHugePages(options.root),
      ExamineUring(),   ExamineDisk(options.disk)};
  for (Finding& finding : ExamineGpus(UsableGpus(DeviceName::Kind::kCuda))) {
    findings.push_back(std::move(finding));
  }
  return findings;
}

}  // namespace hostler
