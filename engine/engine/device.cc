#include "engine/engine/device.h"

#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/base/status.h"
#include "engine/engine/model_needs.h"
#include "fmt/format.h"
#if defined(HOSTLER_CUDA)
#include "engine/compute/cuda/cuda_backend.h"
#endif

namespace hostler {
namespace {

using Kind = DeviceName::Kind;

constexpr char kHowToBuild[] =
    "`cmake --preset release-cuda && cmake --build --preset release-cuda` builds one with CUDA "
    "(docs/cuda.md)";

absl::StatusOr<DeviceName> SettledName(const std::string& device) {
  HOSTLER_ASSIGN_OR_RETURN(const DeviceName name, ParseDeviceName(device));
  if (name.kind != Kind::kAuto) return name;
  return absl::InvalidArgumentError("device is auto where it is to be settled");
}

}  // namespace

absl::StatusOr<std::vector<Gpu>> UsableGpus(Kind kind) {
#if defined(HOSTLER_CUDA_EMULATED)
  if (kind == Kind::kEmulated) return ListGpus();
  return absl::FailedPreconditionError(fmt::format(
      "this build knows CUDA as an emulation on the CPU only, for tests: {}", kHowToBuild));
#elif defined(HOSTLER_CUDA)
  if (kind != Kind::kEmulated) return ListGpus();
  return absl::FailedPreconditionError("this build has CUDA itself, not its emulation");
#else
  (void)kind;
  return absl::FailedPreconditionError(fmt::format("this build has no CUDA: {}", kHowToBuild));
#endif
}

absl::Status CheckDevice(const std::string& device) {
  HOSTLER_ASSIGN_OR_RETURN(const DeviceName name, ParseDeviceName(device));
  return name.kind == Kind::kAuto ? absl::OkStatus() : FindGpu(device).status();
}

absl::StatusOr<std::optional<Gpu>> FindGpu(const std::string& device) {
  HOSTLER_ASSIGN_OR_RETURN(const DeviceName name, SettledName(device));
  if (name.kind == Kind::kCpu) return std::nullopt;
  const absl::StatusOr<std::vector<Gpu>> gpus = UsableGpus(name.kind);
  if (!gpus.ok()) {
    return absl::Status(gpus.status().code(),
                        fmt::format("device {}: {}", device, std::string(gpus.status().message())));
  }
  if (name.index < static_cast<int>(gpus->size())) return (*gpus)[name.index];
  return absl::NotFoundError(
      fmt::format("device {}: there are {} GPUs, from cuda:0", device, gpus->size()));
}

absl::StatusOr<GpuSpeed> MeasureDevice(const std::string& device, double seconds) {
  HOSTLER_ASSIGN_OR_RETURN(const std::optional<Gpu> gpu, FindGpu(device));
  if (!gpu.has_value()) return absl::InvalidArgumentError("the CPU is no GPU");
#if defined(HOSTLER_CUDA)
  // More than the processors' caches hold on either side.
  constexpr uint64_t kCopiedBytes = uint64_t{256} << 20, kEmulatedBytes = uint64_t{16} << 20;
  return MeasureGpu(gpu->index, gpu->emulated ? kEmulatedBytes : kCopiedBytes, seconds);
#else
  (void)seconds;
  return absl::FailedPreconditionError(kHowToBuild);
#endif
}

absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const EngineOptions& options) {
  HOSTLER_ASSIGN_OR_RETURN(const std::optional<Gpu> gpu, FindGpu(options.device));
#if defined(HOSTLER_CUDA)
  if (gpu.has_value()) {
    return NewCudaBackend(gpu->index, {KernelsFor(options), ThreadsFor(options)});
  }
#endif
  return NewCpuBackend(ThreadsFor(options), KernelsFor(options));
}

absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& path, const EngineOptions& options) {
  HOSTLER_ASSIGN_OR_RETURN(const DeviceName name, ParseDeviceName(options.device));
  if (name.kind != Kind::kAuto) return DeviceChoice{options.device, ""};
  const auto cpu = [](const absl::Status& why) {
    return DeviceChoice{"cpu", std::string(why.message())};
  };
  const absl::StatusOr<std::vector<Gpu>> gpus = UsableGpus(Kind::kCuda);
  if (!gpus.ok()) return cpu(gpus.status());
  const Gpu& gpu = *std::max_element(gpus->begin(), gpus->end(), [](const Gpu& a, const Gpu& b) {
    return a.free_bytes < b.free_bytes;
  });
  EngineOptions on_gpu = options;
  on_gpu.device = fmt::format("cuda:{}", gpu.index);
  const absl::StatusOr<PlannedModel> planned = PlanModel(path, on_gpu);
  if (absl::IsResourceExhausted(planned.status())) return cpu(planned.status());
  HOSTLER_RETURN_IF_ERROR(planned.status());
  return DeviceChoice{on_gpu.device,
                      fmt::format("{}, {} free", gpu.name, FormatBytes(gpu.free_bytes))};
}

}  // namespace hostler
