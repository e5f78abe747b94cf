// hostler doctor: what this machine can do, and what keeps it from more.

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/engine/device.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "server/commands/plan_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/text_streams.h"
#include "server/plan/box_report.h"
#include "server/plan/measure_machine.h"

namespace hostler {
namespace {

struct DoctorFlags {
  std::string disk = ".";
  bool profile = false;
  std::string profile_path;
  int threads = 0;
  bool json = false;
};

const char* NameOf(Finding::Level level) {
  switch (level) {
    case Finding::Level::kGood:
      return "good";
    case Finding::Level::kHint:
      return "hint";
    case Finding::Level::kProblem:
      return "problem";
  }
  return "";
}

int Examine(const DoctorFlags& flags) {
  bool problem = false;
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Finding& finding : ExamineBox({flags.disk, ""})) {
    problem = problem || finding.level == Finding::Level::kProblem;
    if (flags.json) {
      list.push_back({{"name", finding.name},
                      {"level", NameOf(finding.level)},
                      {"state", finding.state},
                      {"advice", finding.advice}});
      continue;
    }
    fmt::print("{:<8} {:<14} {}\n", NameOf(finding.level), finding.name, finding.state);
    if (!finding.advice.empty()) fmt::print("{:<23} -> {}\n", "", finding.advice);
  }
  if (flags.json) fmt::print("{}\n", DumpLine(list));
  const int exit_code = FinishStdout();
  return problem ? kExitFailed : exit_code;
}

void PrintKernels(double operation_s, const MachineProfile::Kernels& kernels) {
  fmt::print("kernels  {:.1f} us an operation; 10^9 multiply-adds a second by rows:\n",
             operation_s * 1e6);
  for (const auto& [type, speeds] : kernels) {
    fmt::print("         {:<8}", GetDTypeInfo(type).name);
    for (const MachineProfile::KernelSpeed& speed : speeds) {
      fmt::print("  {:>3}: {:6.1f}", speed.rows, speed.macs_s * 1e-9);
    }
    fmt::print("\n");
  }
}

void Print(const MachineProfile& profile) {
  fmt::print("{}, {}, {} threads\n\n", profile.cpu, profile.backend, profile.threads);
  fmt::print("disk     {}, {}{}\n", profile.disk_path, profile.reader,
             profile.past_page_cache ? ", past the page cache"
                                     : ", through the page cache: it may tell of memory");
  for (const MachineProfile::DiskSpeed& speed : profile.disk) {
    fmt::print("         {:>8} x {}   {:6.2f} GB/s\n", FormatBytes(speed.read_bytes), speed.depth,
               speed.bytes_s * 1e-9);
  }
  fmt::print("memory   {:.1f} GB/s by one thread, {:.1f} by all\n", profile.memory_bytes_s_1 * 1e-9,
             profile.memory_bytes_s * 1e-9);
  PrintKernels(profile.operation_s, profile.kernels);
  for (const MachineProfile::GpuProfile& gpu : profile.gpus) {
    fmt::print("\n{}, {}, {}\n", gpu.name, gpu.backend, FormatBytes(gpu.memory_bytes));
    fmt::print("memory   {:.0f} GB/s within it, {:.1f} GB/s to it, {:.1f} from it\n",
               gpu.memory_bytes_s * 1e-9, gpu.to_device_bytes_s * 1e-9, gpu.to_host_bytes_s * 1e-9);
    PrintKernels(gpu.operation_s, gpu.kernels);
  }
}

// Those that there are; the emulation is none.
std::vector<std::string> DevicesHere() {
  std::vector<std::string> devices;
  const auto gpus = UsableGpus(DeviceName::Kind::kCuda);
  if (!gpus.ok()) return devices;
  for (const Gpu& gpu : *gpus) devices.push_back(fmt::format("cuda:{}", gpu.index));
  return devices;
}

int Profile(const DoctorFlags& flags) {
  const std::string path = flags.profile_path.empty() ? DefaultProfilePath() : flags.profile_path;
  if (path.empty()) {
    return Fail(absl::InvalidArgumentError("no home folder for the profile: give --output"));
  }
  if (absl::Status status = CheckProfilePath(path); !status.ok()) return FailRunning(status);
  absl::StatusOr<MachineProfile> profile;
  {
    ProgressLine line;
    MeasureOptions options;
    options.disk = flags.disk;
    options.threads = flags.threads;
    options.devices = DevicesHere();
    profile = MeasureMachine(options,
                             [&line](const std::string& what) { line.Show("measuring " + what); });
  }
  if (!profile.ok()) return FailRunning(profile.status());
  if (absl::Status status = WriteMachineProfile(*profile, path); !status.ok()) {
    return FailRunning(status);
  }
  if (flags.json) {
    fmt::print("{}\n", DumpLine(ToJson(*profile)));
  } else {
    Print(*profile);
    fmt::print("\nwritten to {}\n", path);
  }
  return FinishStdout();
}

}  // namespace

void AddDoctorCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command = app->add_subcommand(
      "doctor",
      "Tell what keeps this machine from its best; with --profile measure what it can do");
  command
      ->add_option("--disk", flags->disk,
                   "A file or folder where models lie; with --profile a folder gets a file of "
                   "512 MiB for the time being")
      ->type_name("PATH")
      ->capture_default_str();
  CLI::Option* profile = command->add_flag("--profile", flags->profile,
                                           "Measure disk, memory, kernels and GPUs for `hostler "
                                           "plan`: half a minute of all cores, and as "
                                           "long for each GPU");
  command
      ->add_option("--output", flags->profile_path,
                   "Where the profile goes. Default: hostler/profile.json in $XDG_CACHE_HOME or "
                   "~/.cache")
      ->type_name("FILE")
      ->needs(profile);
  command->add_option("--threads", flags->threads, "Threads to measure with. Default: all cores")
      ->check(CLI::Range(1, 4096).description(""))
      ->needs(profile);
  command->add_flag("--json", flags->json, "Print JSON");
  command->footer(
      "Examples:\n  hostler doctor --disk /models\n  hostler doctor --profile --disk /models");
  command->callback([flags, run] {
    *run = [flags] { return flags->profile ? Profile(*flags) : Examine(*flags); };
  });
}

}  // namespace hostler
