#include "cache/reader_uring.h"

#include <fmt/format.h>
#include <liburing.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace hostler {
namespace {

// Requests of one read that may be at the kernel at once; the rest follow.
constexpr int kRequestsOfARead = 8;
// The kernel takes lengths below 2 GiB; Advance() asks for what is left.
constexpr size_t kMaxLength = size_t{1} << 30;
constexpr uint64_t kStop = ~uint64_t{0};

class UringReader : public Reader {
 public:
  explicit UringReader(int depth) : reads_(depth) {}

  ~UringReader() override {
    if (!ring_open_) return;
    Done ignored;
    for (;;) {
      {
        std::lock_guard lock(mutex_);
        if (under_way_ == 0) break;
      }
      Reap(&ignored);
    }
    io_uring_queue_exit(&ring_);
  }

  absl::Status Open() {
    const unsigned entries = static_cast<unsigned>(reads_.size()) * kRequestsOfARead + 1;
    if (const int error = io_uring_queue_init(entries, &ring_, 0); error < 0) {
      return absl::UnimplementedError(
          fmt::format("io_uring: {}", std::generic_category().message(-error)));
    }
    ring_open_ = true;
    return absl::OkStatus();
  }

  void Own(OpenFiles files, std::unique_ptr<Tier> bounce) {
    files_.emplace(std::move(files));
    bounce_ = std::move(bounce);
  }

  std::string_view name() const override { return "io_uring"; }
  int depth() const override { return static_cast<int>(reads_.size()); }
  bool direct() const override { return files_->all_direct(); }

  void Start(int id, std::span<const Extent> extents, std::span<std::byte> out) override {
    std::lock_guard lock(mutex_);
    Read& read = reads_[id];
    PlanRead(*files_, extents, out, bounce_->slot(id).data(), &read.requests);
    read.status = absl::OkStatus();
    read.next = read.at_kernel = 0;
    ++under_way_;
    if (read.requests.empty()) {
      Queue(id, nullptr);  // a read of nothing is done as others are
    }
    while (read.next < read.requests.size() && read.at_kernel < kRequestsOfARead) QueueNext(id);
    io_uring_submit(&ring_);
  }

  bool Wait(Done* done) override {
    std::lock_guard waiting(wait_mutex_);
    for (;;) {
      {
        std::lock_guard lock(mutex_);
        if (stopped_) return false;
      }
      if (Reap(done)) return true;
    }
  }

  void Stop() override {
    std::lock_guard lock(mutex_);
    if (std::exchange(stopped_, true)) return;
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    io_uring_prep_nop(entry);
    io_uring_sqe_set_data64(entry, kStop);
    io_uring_submit(&ring_);
  }

 private:
  struct Read {
    std::vector<ReadRequest> requests;
    size_t next = 0;    // of requests, to be queued
    int at_kernel = 0;  // requests queued and not come back
    absl::Status status;
  };

  // `request` null: nothing to read.
  void Queue(int id, const ReadRequest* request) {
    Read& read = reads_[id];
    // There are entries for as many requests as may be under way.
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (request == nullptr) {
      io_uring_prep_nop(entry);
    } else {
      const int descriptor = request->cached ? files_->cached_descriptor(request->file)
                                             : files_->descriptor(request->file);
      const auto length = static_cast<unsigned>(std::min<size_t>(request->length, kMaxLength));
      io_uring_prep_read(entry, descriptor, request->to, length, request->offset);
      if (request->cached) {
        // By a thread of the kernel's: a copy takes too long for the caller's.
        entry->flags |= IOSQE_ASYNC;
        entry->rw_flags = RWF_NOWAIT;
      }
    }
    const uint64_t index = request == nullptr ? 0 : request - read.requests.data();
    io_uring_sqe_set_data64(entry, uint64_t(id) << 32 | index);
    ++read.at_kernel;
  }

  void QueueNext(int id) {
    Read& read = reads_[id];
    Queue(id, &read.requests[read.next++]);
  }

  // Waits for one completion; true when it ended a read.
  bool Reap(Done* done) {
    io_uring_cqe* completion = nullptr;
    if (io_uring_wait_cqe(&ring_, &completion) < 0) return false;  // EINTR
    std::lock_guard lock(mutex_);
    const uint64_t data = io_uring_cqe_get_data64(completion);
    const int result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    if (data == kStop) return false;
    const int id = static_cast<int>(data >> 32);
    Read& read = reads_[id];
    --read.at_kernel;
    if (!read.requests.empty()) Take(id, &read.requests[data & 0xffffffff], result);
    if (read.at_kernel > 0) return false;
    if (read.status.ok()) FinishRead(*files_, read.requests);
    --under_way_;
    *done = {id, std::move(read.status)};
    return true;
  }

  // What came of a request; queues what is still to be read.
  void Take(int id, ReadRequest* request, int result) {
    Read& read = reads_[id];
    if (result == -EAGAIN && request->cached) {
      request->cached = false;
      result = -EINTR;  // again
    }
    if (result == 0) {
      read.status.Update(files_->EndsEarly(request->file, request->offset));
    } else if (result < 0 && result != -EINTR) {
      read.status.Update(files_->Failed(request->file, request->offset, -result));
    } else if (result < 0 || !request->Advance(static_cast<size_t>(result))) {
      if (!read.status.ok()) return;
      Queue(id, request);
      io_uring_submit(&ring_);
      return;
    }
    if (!read.status.ok() || read.next == read.requests.size()) return;
    QueueNext(id);
    io_uring_submit(&ring_);
  }

  std::optional<OpenFiles> files_;
  std::unique_ptr<Tier> bounce_;
  bool ring_open_ = false;

  std::mutex wait_mutex_;  // held by the one thread that waits in the kernel
  // Guards what follows and both ends of the ring, but for waiting.
  std::mutex mutex_;
  io_uring ring_;
  std::vector<Read> reads_;
  int under_way_ = 0;
  bool stopped_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Reader>> NewUringReader(OpenFiles& files,
                                                       std::unique_ptr<Tier>& bounce, int depth) {
  auto reader = std::make_unique<UringReader>(depth);
  if (absl::Status status = reader->Open(); !status.ok()) return status;
  reader->Own(std::move(files), std::move(bounce));
  return reader;
}

}  // namespace hostler
