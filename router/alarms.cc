#include "router/alarms.h"

namespace hostler {

Alarms::~Alarms() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

uint64_t Alarms::Set(Clock::time_point when, std::function<void()> callback) {
  std::lock_guard lock(mutex_);
  const uint64_t id = ++last_id_;
  const bool first = waiting_.empty() || when < waiting_.begin()->first.first;
  waiting_.emplace(Key(when, id), std::move(callback));
  times_.emplace(id, when);
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  if (first) changed_.notify_all();
  return id;
}

void Alarms::Clear(uint64_t id) {
  if (id == 0) return;
  std::unique_lock lock(mutex_);
  const auto time = times_.find(id);
  if (time != times_.end()) {
    waiting_.erase(Key(time->second, id));
    times_.erase(time);
    return;
  }
  if (thread_.get_id() == std::this_thread::get_id()) return;
  changed_.wait(lock, [&] { return running_ != id; });
}

void Alarms::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (waiting_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto next = waiting_.begin();
    if (Clock::now() < next->first.first) {
      changed_.wait_until(lock, next->first.first);
      continue;
    }
    const std::function<void()> callback = std::move(next->second);
    running_ = next->first.second;
    times_.erase(running_);
    waiting_.erase(next);
    lock.unlock();
    callback();
    lock.lock();
    running_ = 0;
    changed_.notify_all();
  }
}

}  // namespace hostler
