#include "server/plan/machine_profile.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "engine/base/bytes.h"
#include "engine/base/replace_file.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

// 1 has no GPUs.
constexpr int kVersion = 2;

// Of a function through points of rising x, at x; flat beyond the ends.
template <typename Points, typename X, typename Y>
double Interpolate(const Points& points, double at, X x, Y y) {
  if (at <= x(points.front())) return y(points.front());
  for (size_t i = 1; i < points.size(); ++i) {
    if (at > x(points[i])) continue;
    const double part = (at - x(points[i - 1])) / (x(points[i]) - x(points[i - 1]));
    return y(points[i - 1]) + part * (y(points[i]) - y(points[i - 1]));
  }
  return y(points.back());
}

absl::StatusOr<DType> ParseWeightType(const std::string& name) {
  for (int i = 0; i < kDTypes; ++i) {
    const DType type = static_cast<DType>(i);
    if (IsWeightType(type) && GetDTypeInfo(type).name == name) return type;
  }
  return absl::InvalidArgumentError(fmt::format("\"{}\" is no weight type", name));
}

}  // namespace

double MachineProfile::DiskBytesPerSecond(uint64_t read_bytes, double depth) const {
  // At each depth by the logarithm of the size, then by the depth.
  std::map<int, std::vector<DiskSpeed>> by_depth;
  for (const DiskSpeed& speed : disk) by_depth[speed.depth].push_back(speed);
  std::vector<std::pair<double, double>> at_size;
  for (auto& [at_depth, speeds] : by_depth) {
    std::sort(speeds.begin(), speeds.end(),
              [](const auto& a, const auto& b) { return a.read_bytes < b.read_bytes; });
    const double bytes_s = Interpolate(
        speeds, std::log2(static_cast<double>(std::max<uint64_t>(read_bytes, 1))),
        [](const auto& s) { return std::log2(static_cast<double>(s.read_bytes)); },
        [](const auto& s) { return s.bytes_s; });
    at_size.emplace_back(at_depth, bytes_s);
  }
  if (at_size.empty()) return 0;
  return Interpolate(
      at_size, depth, [](const auto& p) { return p.first; },
      [](const auto& p) { return p.second; });
}

double MachineProfile::KernelSeconds(DType type, double macs, double rows) const {
  const auto seconds = [&](const std::vector<KernelSpeed>& speeds) {
    const KernelSpeed& most = speeds.back();
    if (rows >= most.rows) return macs * rows / most.macs_s;
    return Interpolate(
        speeds, rows, [](const auto& s) { return s.rows; },
        [macs](const auto& s) { return macs * s.rows / s.macs_s; });
  };
  const auto found = kernels.find(type);
  if (found != kernels.end()) return seconds(found->second);
  double slowest = 0;
  for (const auto& [other, speeds] : kernels) slowest = std::max(slowest, seconds(speeds));
  return slowest;
}

MachineProfile OnGpu(const MachineProfile& machine, const MachineProfile::GpuProfile& gpu) {
  MachineProfile seen = machine;
  seen.backend = gpu.backend;
  seen.memory_bytes_s = seen.memory_bytes_s_1 = gpu.memory_bytes_s;
  seen.operation_s = gpu.operation_s;
  seen.kernels = gpu.kernels;
  seen.link_bytes_s = gpu.to_device_bytes_s;
  return seen;
}

namespace {

// "1008GB/s" with the unit "B/s": 1.008e12.
absl::StatusOr<double> ParseRate(std::string_view text, std::string_view unit) {
  constexpr std::string_view kPrefixes = "GT";
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" is not a number with the unit G{} or T{}", text, unit, unit));
  };
  if (!text.ends_with(unit)) return wrong();
  const std::string number(text.substr(0, text.size() - unit.size()));
  char* end = nullptr;
  const double value = std::strtod(number.c_str(), &end);
  if (*end == 0 || end[1] != 0 || end == number.c_str()) return wrong();
  const size_t prefix = kPrefixes.find(*end);
  if (prefix == std::string_view::npos || !(value > 0 && value < 1e6)) return wrong();
  return value * (prefix == 0 ? 1e9 : 1e12);
}

}  // namespace

absl::StatusOr<MachineProfile::GpuProfile> ParseGpuNumbers(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  if (parts.size() != 3 && parts.size() != 4) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" is not MEMORY,MEMORY SPEED,LINK SPEED[,TFLOPS], as in "
                    "24GiB,1008GB/s,25GB/s,165TFLOPS",
                    text));
  }
  MachineProfile::GpuProfile gpu;
  gpu.name = text;
  gpu.backend = "a GPU of these numbers";
  HOSTLER_ASSIGN_OR_RETURN(gpu.memory_bytes, ParseBytes(std::string(parts[0])));
  HOSTLER_ASSIGN_OR_RETURN(gpu.memory_bytes_s, ParseRate(parts[1], "B/s"));
  HOSTLER_ASSIGN_OR_RETURN(gpu.to_device_bytes_s, ParseRate(parts[2], "B/s"));
  gpu.to_host_bytes_s = gpu.to_device_bytes_s;
  // One row's product takes what reading the weights takes; with many rows computing may
  // take longer.
  constexpr int kManyRows = 512;
  double flops = 1e18;
  if (parts.size() == 4) {
    HOSTLER_ASSIGN_OR_RETURN(flops, ParseRate(parts[3], "FLOPS"));
  }
  for (int i = 0; i < kDTypes; ++i) {
    const DType type = static_cast<DType>(i);
    if (!IsWeightType(type)) continue;
    const DTypeInfo& info = GetDTypeInfo(type);
    const double macs_s_1 =
        gpu.memory_bytes_s * static_cast<double>(info.block_elements) / double(info.block_bytes);
    gpu.kernels[type] = {{1, std::min(macs_s_1, flops / 2)},
                         {kManyRows, std::min(macs_s_1 * kManyRows, flops / 2)}};
  }
  return gpu;
}

namespace {

using Json = nlohmann::json;

nlohmann::ordered_json KernelsJson(const MachineProfile::Kernels& kernels) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [type, speeds] : kernels) {
    nlohmann::ordered_json& of_type = json[std::string(GetDTypeInfo(type).name)];
    for (const MachineProfile::KernelSpeed& speed : speeds) {
      of_type.push_back({{"rows", speed.rows}, {"macs_per_second", speed.macs_s}});
    }
  }
  return json;
}

// Absent or of another type: NaN, which no check lets through.
double Number(const Json& from, const char* key) {
  const auto value = from.find(key);
  return value != from.end() && value->is_number() ? value->get<double>() : std::nan("");
}

std::string Text(const Json& from, const char* key) {
  const auto value = from.find(key);
  return value != from.end() && value->is_string() ? value->get<std::string>() : "";
}

Json Part(const Json& from, const char* key) {
  const auto value = from.find(key);
  return value != from.end() ? *value : Json();
}

absl::Status Unsound() {
  return absl::InvalidArgumentError("a machine profile with missing or impossible values");
}

absl::StatusOr<MachineProfile::Kernels> ParseKernels(const Json& json) {
  MachineProfile::Kernels kernels;
  for (const auto& [name, speeds] : json.items()) {
    HOSTLER_ASSIGN_OR_RETURN(const DType type, ParseWeightType(name));
    std::vector<MachineProfile::KernelSpeed>& of_type = kernels[type];
    for (const Json& item : speeds) {
      const double rows = Number(item, "rows"), macs_s = Number(item, "macs_per_second");
      const bool sound =
          rows >= 1 && rows < 1e6 && macs_s > 0 && (of_type.empty() || rows > of_type.back().rows);
      if (!sound) return Unsound();
      of_type.push_back({static_cast<int>(rows), macs_s});
    }
    if (of_type.empty()) return Unsound();
  }
  if (kernels.empty()) return Unsound();
  return kernels;
}

nlohmann::ordered_json GpuJson(const MachineProfile::GpuProfile& gpu) {
  return {{"name", gpu.name},
          {"backend", gpu.backend},
          {"memory_bytes", gpu.memory_bytes},
          {"memory_bytes_per_second", gpu.memory_bytes_s},
          {"to_device_bytes_per_second", gpu.to_device_bytes_s},
          {"to_host_bytes_per_second", gpu.to_host_bytes_s},
          {"operation_seconds", gpu.operation_s},
          {"kernels", KernelsJson(gpu.kernels)}};
}

absl::StatusOr<MachineProfile::GpuProfile> ParseGpu(const Json& json) {
  MachineProfile::GpuProfile gpu;
  gpu.name = Text(json, "name");
  gpu.backend = Text(json, "backend");
  const double bytes = Number(json, "memory_bytes");
  gpu.memory_bytes_s = Number(json, "memory_bytes_per_second");
  gpu.to_device_bytes_s = Number(json, "to_device_bytes_per_second");
  gpu.to_host_bytes_s = Number(json, "to_host_bytes_per_second");
  gpu.operation_s = Number(json, "operation_seconds");
  const bool sound = bytes >= 1 && bytes < 1e15 && gpu.memory_bytes_s > 0 &&
                     gpu.to_device_bytes_s > 0 && gpu.to_host_bytes_s > 0 && gpu.operation_s >= 0;
  if (!sound) return Unsound();
  gpu.memory_bytes = static_cast<uint64_t>(bytes);
  HOSTLER_ASSIGN_OR_RETURN(gpu.kernels, ParseKernels(Part(json, "kernels")));
  return gpu;
}

}  // namespace

nlohmann::ordered_json ToJson(const MachineProfile& profile) {
  nlohmann::ordered_json disk = nlohmann::ordered_json::array();
  for (const MachineProfile::DiskSpeed& speed : profile.disk) {
    disk.push_back({{"read_bytes", speed.read_bytes},
                    {"depth", speed.depth},
                    {"bytes_per_second", speed.bytes_s}});
  }
  nlohmann::ordered_json gpus = nlohmann::ordered_json::array();
  for (const MachineProfile::GpuProfile& gpu : profile.gpus) gpus.push_back(GpuJson(gpu));
  return {{"version", kVersion},
          {"cpu", profile.cpu},
          {"backend", profile.backend},
          {"threads", profile.threads},
          {"disk_path", profile.disk_path},
          {"reader", profile.reader},
          {"past_page_cache", profile.past_page_cache},
          {"disk", disk},
          {"memory_bytes_per_second_1", profile.memory_bytes_s_1},
          {"memory_bytes_per_second", profile.memory_bytes_s},
          {"operation_seconds", profile.operation_s},
          {"kernels", KernelsJson(profile.kernels)},
          {"gpus", gpus}};
}

absl::StatusOr<MachineProfile> ParseMachineProfile(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a machine profile");
  const double version = Number(json, "version");
  if (version != kVersion && version != 1) {
    return absl::InvalidArgumentError(
        "a machine profile of another version: measure it again (hostler doctor --profile)");
  }
  MachineProfile profile;
  profile.cpu = Text(json, "cpu");
  profile.backend = Text(json, "backend");
  profile.disk_path = Text(json, "disk_path");
  profile.reader = Text(json, "reader");
  profile.past_page_cache = Part(json, "past_page_cache") == true;
  const double threads = Number(json, "threads");
  profile.memory_bytes_s_1 = Number(json, "memory_bytes_per_second_1");
  profile.memory_bytes_s = Number(json, "memory_bytes_per_second");
  profile.operation_s = Number(json, "operation_seconds");
  bool sound = threads >= 1 && threads <= 1 << 16 && profile.memory_bytes_s_1 > 0 &&
               profile.memory_bytes_s > 0 && profile.operation_s >= 0;
  for (const Json& item : Part(json, "disk")) {
    const double bytes = Number(item, "read_bytes"), depth = Number(item, "depth");
    const double bytes_s = Number(item, "bytes_per_second");
    sound = sound && bytes >= 1 && bytes < 1e15 && depth >= 1 && depth < 1e6 && bytes_s > 0;
    if (!sound) break;
    profile.disk.push_back({static_cast<uint64_t>(bytes), static_cast<int>(depth), bytes_s});
  }
  if (!sound) return Unsound();
  profile.threads = static_cast<int>(threads);
  HOSTLER_ASSIGN_OR_RETURN(profile.kernels, ParseKernels(Part(json, "kernels")));
  for (const Json& gpu : Part(json, "gpus")) {
    HOSTLER_ASSIGN_OR_RETURN(profile.gpus.emplace_back(), ParseGpu(gpu));
  }
  return profile;
}

std::string DefaultProfilePath() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != 0) {
    return std::string(cache) + "/hostler/profile.json";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != 0) {
    return std::string(home) + "/.cache/hostler/profile.json";
  }
  return "";
}

namespace {

// What stands in its way shows when the file is written.
void MakeFolderOf(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder, ignored);
}

}  // namespace

absl::Status CheckProfilePath(const std::string& path) {
  MakeFolderOf(path);
  return CheckReplaceable(path);
}

absl::Status WriteMachineProfile(const MachineProfile& profile, const std::string& path) {
  MakeFolderOf(path);
  return ReplaceFile(path, ToJson(profile).dump(1) + "\n");
}

absl::StatusOr<MachineProfile> ReadMachineProfile(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(fmt::format(
        "no machine profile at \"{}\"; `hostler doctor --profile --disk PATH` measures one in half "
        "a minute, PATH being where models lie; --profile FILE names another",
        path));
  }
  std::stringstream text;
  text << file.rdbuf();
  absl::StatusOr<MachineProfile> profile = ParseMachineProfile(text.str());
  if (profile.ok()) return profile;
  return absl::InvalidArgumentError(
      fmt::format("{}: {}", path, std::string(profile.status().message())));
}

}  // namespace hostler
