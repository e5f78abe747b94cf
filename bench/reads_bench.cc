// What reading experts costs: GB/s, and CPU seconds for each GB, through a
// Reader as the expert cache uses it, of experts laid out over any large file.
//
//   reads_bench FILE --expert-bytes 3538944 --parts 1,3 --depth 1,2,4,8
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>
#include <vector>

#include "cache/reader.h"
#include "cache/tier.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Case {
  std::string file, method = "auto";
  uint64_t expert_bytes = 0;
  int parts = 1;            // extents of an expert, as far apart as the file allows
  uint64_t misaligned = 0;  // bytes past a 4 KiB boundary where the first extent begins
  int depth = 8;
  bool direct = true;
  double seconds = 2;
};

// Extents of as many experts as the file holds: part p of each lies in the p-th
// stretch of the file, as tensors of stacked experts do.
std::vector<std::vector<Extent>> LayOut(const Case& c) {
  const uint64_t part = c.expert_bytes / c.parts;
  // A packed store pads its experts; stacked ones follow each other.
  const uint64_t stride = c.parts == 1 ? SlotStride(part) : part;
  const uint64_t stretch = std::filesystem::file_size(c.file) / c.parts / 4096 * 4096;
  std::vector<std::vector<Extent>> experts;
  for (uint64_t at = 0; at + stride + c.misaligned <= stretch; at += stride) {
    auto& extents = experts.emplace_back();
    for (int p = 0; p < c.parts; ++p) {
      extents.push_back({0, p * stretch + c.misaligned + at, part});
    }
  }
  return experts;
}

class Run {
 public:
  Run(const Case& c, Reader* reader, Tier* slots, int num_slots)
      : case_(c), reader_(reader), slots_(slots), experts_(LayOut(c)), num_slots_(num_slots) {}

  int64_t Measure() {
    begin_ = Clock::now();
    for (int id = 0; id < reader_->depth(); ++id) Start(id);
    std::vector<std::thread> waiters;
    for (int t = 0; t < 2; ++t) waiters.emplace_back([this] { Wait(); });
    for (std::thread& waiter : waiters) waiter.join();
    return done_;
  }

 private:
  void Start(int id) {
    const int slot = next_slot_++ % num_slots_;
    thread_local std::mt19937 random(std::random_device{}());
    ++under_way_;
    reader_->Start(id, experts_[random() % experts_.size()], slots_->slot(slot));
  }

  void Wait() {
    Reader::Done done;
    while (reader_->Wait(&done)) {
      if (!done.status.ok()) fmt::print("{}\n", std::string(done.status.message()));
      ++done_;
      if (Clock::now() - begin_ < std::chrono::duration<double>(case_.seconds)) Start(done.id);
      if (--under_way_ == 0) reader_->Stop();
    }
  }

  const Case& case_;
  Reader* const reader_;
  Tier* const slots_;
  const std::vector<std::vector<Extent>> experts_;
  const int num_slots_;
  Clock::time_point begin_;
  std::atomic<int> next_slot_{0};
  std::atomic<int> under_way_{0};
  std::atomic<int64_t> done_{0};
};

int Measure(const Case& c) {
  ReaderOptions options{.direct = c.direct ? DirectIo::kOn : DirectIo::kOff, .depth = c.depth};
  options.max_bytes = c.expert_bytes;
  options.max_extents = c.parts;
  if (c.method == "pread") options.method = ReaderOptions::Method::kPread;
  auto reader = NewReader({&c.file, 1}, options);
  const int num_slots = std::max<int>(c.depth + 1, int((512u << 20) / c.expert_bytes));
  const SlotClass size{c.expert_bytes, num_slots};
  auto slots = NewDramTier({&size, 1});
  if (!reader.ok() || !slots.ok()) {
    fmt::print("{}\n", std::string(reader.status().message()));
    return 1;
  }
  for (int slot = 0; slot < num_slots; ++slot) {
    std::memset((*slots)->slot(slot).data(), 1, c.expert_bytes);
  }
  Run run(c, reader->get(), slots->get(), num_slots);
  const double cpu = CpuSeconds();
  const Clock::time_point begin = Clock::now();
  const int64_t reads = run.Measure();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const double gigabytes = double(reads) * double(c.expert_bytes) * 1e-9;
  const double used = CpuSeconds() - cpu;
  fmt::print("{:8} {:8} {:10} {:5} {:6} {:5} {:8.2f} {:10.3f} {:10.1f}\n", (*reader)->name(),
             c.direct ? "direct" : "buffered", c.expert_bytes, c.parts, c.misaligned, c.depth,
             gigabytes / seconds, used / gigabytes, used / double(reads) * 1e6);
  return 0;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) {
  hostler::Case c;
  std::vector<uint64_t> bytes = {3538944};
  std::vector<uint64_t> misaligned = {0};
  std::vector<int> parts = {1}, depths = {8};
  std::vector<std::string> methods = {"auto"};
  bool buffered = false;
  CLI::App app("Reads experts at random from FILE and says what that costs");
  app.add_option("FILE", c.file, "any large file")->required();
  app.add_option("--expert-bytes", bytes)->delimiter(',');
  app.add_option("--parts", parts, "extents of an expert")->delimiter(',');
  app.add_option("--misaligned", misaligned, "bytes past a page's begin")->delimiter(',');
  app.add_option("--depth", depths, "reads under way")->delimiter(',');
  app.add_option("--method", methods, "auto, pread")->delimiter(',');
  app.add_option("--seconds", c.seconds, "for each line");
  app.add_flag("--buffered", buffered, "through the page cache");
  CLI11_PARSE(app, argc, argv);
  c.direct = !buffered;
  fmt::print("{:8} {:8} {:>10} {:>5} {:>6} {:>5} {:>8} {:>10} {:>10}\n", "reader", "", "bytes",
             "parts", "offset", "depth", "GB/s", "CPU s/GB", "CPU us/read");
  for (const std::string& method : methods) {
    for (const uint64_t size : bytes) {
      for (const int part : parts) {
        for (const uint64_t offset : misaligned) {
          for (const int depth : depths) {
            c.method = method;
            c.expert_bytes = size;
            c.parts = part;
            c.misaligned = offset;
            c.depth = depth;
            if (hostler::Measure(c) != 0) return 1;
          }
        }
      }
    }
  }
  return 0;
}
