#include "cache/throttled_reader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "cache/id_queue.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

class ThrottledReader : public Reader {
 public:
  ThrottledReader(std::unique_ptr<Reader> reader, double bytes_per_second)
      : reader_(std::move(reader)),
        seconds_per_byte_(1 / bytes_per_second),
        reads_(reader_->depth()),
        started_(reader_->depth()) {}

  std::string_view name() const override { return reader_->name(); }
  int depth() const override { return reader_->depth(); }
  bool direct() const override { return reader_->direct(); }

  void Start(int id, std::span<const Extent> extents, std::span<std::byte> out) override {
    std::lock_guard lock(mutex_);
    const std::chrono::duration<double> takes(seconds_per_byte_ * double(out.size()));
    idle_from_ = std::max(idle_from_, Clock::now()) + std::chrono::round<Clock::duration>(takes);
    reads_[id] = {.due = idle_from_, .came = false, .status = {}};
    started_.Push(id);
    // Under the lock, so that reads begin in the order that was noted.
    reader_->Start(id, extents, out);
  }

  bool Wait(Done* done) override {
    std::lock_guard waiting(wait_mutex_);
    std::unique_lock lock(mutex_);
    while (started_.empty() || !reads_[started_.front()].came) {
      if (stopped_) return false;
      lock.unlock();
      Done came;
      const bool any = reader_->Wait(&came);
      lock.lock();
      if (!any) return false;
      reads_[came.id].came = true;
      reads_[came.id].status = std::move(came.status);
    }
    const Clock::time_point due = reads_[started_.front()].due;
    if (stop_.wait_until(lock, due, [this] { return stopped_; })) return false;
    const int id = started_.Pop();
    *done = {id, std::move(reads_[id].status)};
    return true;
  }

  void Stop() override {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    stop_.notify_all();
    reader_->Stop();
  }

 private:
  struct Read {
    Clock::time_point due;
    bool came = false;
    absl::Status status;
  };

  const std::unique_ptr<Reader> reader_;
  const double seconds_per_byte_;

  std::mutex wait_mutex_;  // held by the one thread that waits for `reader_` or the time
  std::mutex mutex_;
  std::condition_variable stop_;
  std::vector<Read> reads_;
  IdQueue started_;              // and not taken
  Clock::time_point idle_from_;  // when the disk would be through with all of them
  bool stopped_ = false;
};

}  // namespace

std::unique_ptr<Reader> NewThrottledReader(std::unique_ptr<Reader> reader,
                                           double bytes_per_second) {
  return std::make_unique<ThrottledReader>(std::move(reader), bytes_per_second);
}

}  // namespace hostler
