// Disks that fail as a test says, under an engine that serves.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cache/reader.h"

namespace hostler {

// Notes what is read, and lets every expert's reads fail by turns. Outlives the
// readers made by it.
class ReadFaults {
 public:
  explicit ReadFaults(std::string file) : file_(std::move(file)) {}

  // Of three attempts at an expert, the first so many fail; 0: none.
  void FailOfThree(int count) {
    std::lock_guard lock(mutex_);
    fail_of_three_ = count;
    attempts_.clear();
  }

  // Experts read since the last call, each by where its first extent begins.
  std::set<uint64_t> TakeRead() {
    std::lock_guard lock(mutex_);
    return std::exchange(read_, {});
  }
  // The extents of an expert that was read.
  std::vector<Extent> ExtentsOf(uint64_t expert) const {
    std::lock_guard lock(mutex_);
    return extents_.at(expert);
  }

  // As `reader`, but failing. By `method`, where the reader that serves has another.
  std::unique_ptr<Reader> Wrap(std::unique_ptr<Reader> reader, ReaderOptions::Method method) {
    if (method == ReaderOptions::Method::kPread && reader->name() != "pread") {
      const std::array<std::string, 1> paths = {file_};
      auto other = NewReader(paths, {.method = method, .max_bytes = 1 << 20, .max_extents = 8});
      if (other.ok()) reader = *std::move(other);
    }
    return std::make_unique<FaultyReader>(this, std::move(reader));
  }

 private:
  class FaultyReader : public Reader {
   public:
    FaultyReader(ReadFaults* faults, std::unique_ptr<Reader> reader)
        : faults_(faults), reader_(std::move(reader)), reads_(reader_->depth()) {}

    std::string_view name() const override { return reader_->name(); }
    int depth() const override { return reader_->depth(); }
    bool direct() const override { return reader_->direct(); }
    void Start(int id, std::span<const Extent> extents, std::span<std::byte> out) override {
      reads_[id] = {faults_->Fails(extents), extents.front().offset, out};
      reader_->Start(id, extents, out);
    }
    bool Wait(Done* done) override {
      if (!reader_->Wait(done)) return false;
      const Read& read = reads_[done->id];
      if (!read.fails) return true;
      std::fill(read.out.begin(), read.out.end(), std::byte{0xff});
      done->status = absl::UnavailableError(
          fmt::format("{}: read at offset {}: injected", faults_->file_, read.offset));
      return true;
    }
    void Stop() override { reader_->Stop(); }

   private:
    struct Read {
      bool fails = false;
      uint64_t offset = 0;
      std::span<std::byte> out;
    };

    ReadFaults* const faults_;
    const std::unique_ptr<Reader> reader_;
    std::vector<Read> reads_;
  };

  bool Fails(std::span<const Extent> extents) {
    std::lock_guard lock(mutex_);
    const uint64_t expert = extents.front().offset;
    read_.insert(expert);
    extents_.try_emplace(expert, extents.begin(), extents.end());
    return attempts_[expert]++ % 3 < fail_of_three_;
  }

  const std::string file_;
  mutable std::mutex mutex_;
  int fail_of_three_ = 0;
  std::map<uint64_t, int> attempts_;
  std::set<uint64_t> read_;
  std::map<uint64_t, std::vector<Extent>> extents_;
};

// Stands in for a file that this process has open: reads of what is broken get
// EIO from the kernel, reads that run into it are short. The file is mapped at
// the addresses that are its offsets, and /proc/self/mem is read in its place;
// what is broken is not mapped. The first 64 KiB are broken from the beginning.
class BreakableFile {
 public:
  explicit BreakableFile(const std::filesystem::path& path)
      : path_(std::filesystem::canonical(path)),
        file_(open(path_.c_str(), O_RDONLY | O_CLOEXEC)),
        bytes_(std::filesystem::file_size(path_)) {
    mapped_ = Map(MAP_FIXED_NOREPLACE);
  }
  ~BreakableFile() {
    if (mapped_) BreakAll();
    close(file_);
  }

  // Takes the place of the file's descriptors, but for those that are not to
  // block: the weights' mapping goes on seeing the file. False where this system
  // does not let it.
  bool Attach() {
    if (!mapped_) return false;
    const int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (memory < 0) return false;
    int attached = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const int descriptor = std::stoi(entry.path().filename());
      if (std::filesystem::read_symlink(entry, gone) != path_) continue;
      if (descriptor == file_ || (fcntl(descriptor, F_GETFL) & O_NONBLOCK) != 0) continue;
      attached += dup2(memory, descriptor) == descriptor;
    }
    close(memory);
    return attached > 0;
  }

  // The whole pages within.
  void Break(uint64_t offset, uint64_t bytes) const {
    const uint64_t begin = (offset + kPage - 1) / kPage * kPage;
    const uint64_t end = (offset + bytes) / kPage * kPage;
    if (begin < end) munmap(Address(begin), end - begin);
  }
  void BreakAll() const { Break(kFirst, bytes_ + kPage - kFirst); }
  void Heal() { mapped_ = Map(MAP_FIXED); }

 private:
  static constexpr uint64_t kPage = 4096, kFirst = 65536;

  static void* Address(uint64_t offset) { return reinterpret_cast<void*>(offset); }
  bool Map(int how) const {
    return mmap(Address(kFirst), bytes_ - kFirst, PROT_READ, MAP_PRIVATE | how, file_, kFirst) ==
           Address(kFirst);
  }

  const std::filesystem::path path_;
  const int file_;
  const uint64_t bytes_;
  bool mapped_ = false;
};

}  // namespace hostler
