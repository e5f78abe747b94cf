// What computes, by EngineOptions::device.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/device_name.h"
#include "engine/compute/backend.h"
#include "engine/compute/gpu.h"
#include "engine/engine/engine.h"

namespace hostler {

// GPUs that this build computes with: the emulation's only where `name` asks for it.
// Errors: FailedPrecondition for a build without CUDA, saying how to build with it; NotFound.
absl::StatusOr<std::vector<Gpu>> UsableGpus(DeviceName::Kind name);

// Whether a `device` is there. Errors: InvalidArgument for a name that is none; else
// UsableGpus's; NotFound for a GPU beyond those there are.
absl::Status CheckDevice(const std::string& device);

// The GPU that `device` names; nullopt: the CPU. REQUIRES: not "auto". Errors: as
// CheckDevice.
absl::StatusOr<std::optional<Gpu>> FindGpu(const std::string& device);

// MeasureGpu (compute/gpu.h), where this build has it. Errors: UsableGpus's and MeasureGpu's.
absl::StatusOr<GpuSpeed> MeasureDevice(const std::string& device, double seconds);

// REQUIRES: options.device is not "auto". Errors: as CheckDevice; the backends'.
absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const EngineOptions& options);

struct DeviceChoice {
  std::string device;  // never "auto"
  std::string why;     // "" where none was to be made
};
// Settles "auto": the GPU with the most memory free, if all of the model but its experts,
// and a few of them, fit there; else the CPU. Reads headers only. Errors: as CheckDevice
// and PlanModel, of the CPU's plan none.
absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& path, const EngineOptions& options);

}  // namespace hostler
