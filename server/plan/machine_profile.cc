#include "server/plan/machine_profile.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "engine/base/replace_file.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

constexpr int kVersion = 1;

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

nlohmann::ordered_json ToJson(const MachineProfile& profile) {
  nlohmann::ordered_json disk = nlohmann::ordered_json::array();
  for (const MachineProfile::DiskSpeed& speed : profile.disk) {
    disk.push_back({{"read_bytes", speed.read_bytes},
                    {"depth", speed.depth},
                    {"bytes_per_second", speed.bytes_s}});
  }
  nlohmann::ordered_json kernels = nlohmann::ordered_json::object();
  for (const auto& [type, speeds] : profile.kernels) {
    nlohmann::ordered_json& of_type = kernels[std::string(GetDTypeInfo(type).name)];
    for (const MachineProfile::KernelSpeed& speed : speeds) {
      of_type.push_back({{"rows", speed.rows}, {"macs_per_second", speed.macs_s}});
    }
  }
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
          {"kernels", kernels}};
}

absl::StatusOr<MachineProfile> ParseMachineProfile(std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a machine profile");
  // Absent or of another type: NaN, which no check lets through.
  const auto number = [](const nlohmann::json& from, const char* key) {
    const auto value = from.find(key);
    return value != from.end() && value->is_number() ? value->get<double>() : std::nan("");
  };
  const auto string = [&json](const char* key) {
    const auto value = json.find(key);
    return value != json.end() && value->is_string() ? value->get<std::string>() : "";
  };
  const auto list = [](const nlohmann::json& from, const char* key) {
    const auto value = from.find(key);
    return value != from.end() ? *value : nlohmann::json();
  };
  if (number(json, "version") != kVersion) {
    return absl::InvalidArgumentError("a machine profile of another version: measure it again");
  }
  MachineProfile profile;
  profile.cpu = string("cpu");
  profile.backend = string("backend");
  profile.disk_path = string("disk_path");
  profile.reader = string("reader");
  profile.past_page_cache = list(json, "past_page_cache") == true;
  const double threads = number(json, "threads");
  profile.memory_bytes_s_1 = number(json, "memory_bytes_per_second_1");
  profile.memory_bytes_s = number(json, "memory_bytes_per_second");
  profile.operation_s = number(json, "operation_seconds");
  bool sound = threads >= 1 && threads <= 1 << 16 && profile.memory_bytes_s_1 > 0 &&
               profile.memory_bytes_s > 0 && profile.operation_s >= 0;
  for (const nlohmann::json& item : list(json, "disk")) {
    const double bytes = number(item, "read_bytes"), depth = number(item, "depth");
    const double bytes_s = number(item, "bytes_per_second");
    sound = sound && bytes >= 1 && bytes < 1e15 && depth >= 1 && depth < 1e6 && bytes_s > 0;
    if (!sound) break;
    profile.disk.push_back({static_cast<uint64_t>(bytes), static_cast<int>(depth), bytes_s});
  }
  const nlohmann::json kernels = list(json, "kernels");
  for (const auto& [name, speeds] : kernels.items()) {
    HOSTLER_ASSIGN_OR_RETURN(const DType type, ParseWeightType(name));
    std::vector<MachineProfile::KernelSpeed>& of_type = profile.kernels[type];
    for (const nlohmann::json& item : speeds) {
      const double rows = number(item, "rows"), macs_s = number(item, "macs_per_second");
      sound = sound && rows >= 1 && rows < 1e6 && macs_s > 0 &&
              (of_type.empty() || rows > of_type.back().rows);
      if (!sound) break;
      of_type.push_back({static_cast<int>(rows), macs_s});
    }
    sound = sound && !of_type.empty();
  }
  if (!sound || profile.kernels.empty()) {
    return absl::InvalidArgumentError("a machine profile with missing or impossible values");
  }
  profile.threads = static_cast<int>(threads);
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

absl::Status CheckProfilePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  return CheckReplaceable(path);
}

absl::Status WriteMachineProfile(const MachineProfile& profile, const std::string& path) {
  HOSTLER_RETURN_IF_ERROR(CheckProfilePath(path));
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
