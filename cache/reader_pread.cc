#include "cache/reader_pread.h"

#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cache/id_queue.h"
#include "cache/read_plan.h"
#include "cache/tier.h"

namespace hostler {
namespace {

// A thread for each read that may be under way.
class PreadReader : public Reader {
 public:
  PreadReader(OpenFiles files, std::unique_ptr<Tier> bounce, int depth)
      : files_(std::move(files)),
        bounce_(std::move(bounce)),
        reads_(depth),
        queued_(depth),
        done_(depth) {}

  ~PreadReader() override {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status StartThreads() {
    threads_.reserve(reads_.size());
    try {
      for (int i = 0; i < reads_.size(); ++i) threads_.emplace_back([this] { Run(); });
    } catch (const std::system_error& error) {
      return absl::ResourceExhaustedError(fmt::format("no I/O thread: {}", error.what()));
    }
    return absl::OkStatus();
  }

  std::string_view name() const override { return "pread"; }
  int depth() const override { return static_cast<int>(reads_.size()); }
  bool direct() const override { return files_.all_direct(); }

  void Start(int id, std::span<const Extent> extents, std::span<std::byte> out) override {
    {
      std::lock_guard lock(mutex_);
      reads_[id].extents = extents;
      reads_[id].out = out;
      queued_.Push(id);
    }
    work_.notify_one();
  }

  bool Wait(Done* done) override {
    std::unique_lock lock(mutex_);
    progress_.wait(lock, [this] { return stopped_ || !done_.empty(); });
    if (stopped_) return false;
    done->id = done_.Pop();
    done->status = std::move(reads_[done->id].status);
    return true;
  }

  void Stop() override {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    progress_.notify_all();
  }

 private:
  struct Read {
    std::span<const Extent> extents;
    std::span<std::byte> out;
    std::vector<ReadRequest> requests;
    absl::Status status;
  };

  void Run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return ending_ || !queued_.empty(); });
      if (queued_.empty()) return;
      const int id = queued_.Pop();
      lock.unlock();
      Read& read = reads_[id];
      PlanRead(files_, read.extents, read.out, bounce_->slot(id).data(), &read.requests);
      read.status = Perform(read.requests);
      if (read.status.ok()) FinishRead(files_, read.requests);
      lock.lock();
      done_.Push(id);
      progress_.notify_one();
    }
  }

  absl::Status Perform(std::vector<ReadRequest>& requests) const {
    for (ReadRequest& request : requests) {
      for (;;) {
        const iovec to = {request.to, request.length};
        const int descriptor = request.cached ? files_.cached_descriptor(request.file)
                                              : files_.descriptor(request.file);
        const ssize_t got = preadv2(descriptor, &to, 1, static_cast<off_t>(request.offset),
                                    request.cached ? RWF_NOWAIT : 0);
        if (got < 0 && errno == EAGAIN && request.cached) {
          request.cached = false;
          continue;
        }
        if (got == 0) return files_.EndsEarly(request.file, request.offset);
        if (got < 0 && errno != EINTR) return files_.Failed(request.file, request.offset, errno);
        if (got > 0 && request.Advance(static_cast<size_t>(got))) break;
      }
    }
    return absl::OkStatus();
  }

  const OpenFiles files_;
  const std::unique_ptr<Tier> bounce_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable work_, progress_;
  // A read belongs to its thread from Pop() to Push().
  std::vector<Read> reads_;
  IdQueue queued_, done_;
  bool stopped_ = false;
  bool ending_ = false;  // nothing more will be queued
};

}  // namespace

absl::StatusOr<std::unique_ptr<Reader>> NewPreadReader(OpenFiles files,
                                                       std::unique_ptr<Tier> bounce, int depth) {
  auto reader = std::make_unique<PreadReader>(std::move(files), std::move(bounce), depth);
  if (absl::Status status = reader->StartThreads(); !status.ok()) return status;
  return reader;
}

}  // namespace hostler
