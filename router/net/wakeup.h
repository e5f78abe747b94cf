// Wakeup: a coroutine's wait for news, or for a moment.
#pragma once

#include <chrono>

#include "router/net/asio.h"

namespace hostler {

// Used by one thread.
class Wakeup {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit Wakeup(const IoExecutor& executor) : timer_(executor) {}

  // Waits for Wake(), or takes note of one that came since the last wait; false
  // when `deadline` passes first.
  Task<bool> Wait(TimePoint deadline) {
    while (!woken_) {
      boost::system::error_code ec;
      timer_.expires_at(deadline);
      co_await timer_.async_wait(net::redirect_error(kAwait, ec));
      if (!ec && !woken_) co_return false;
    }
    woken_ = false;
    co_return true;
  }

  void Wake() {
    woken_ = true;
    timer_.cancel();
  }

 private:
  net::steady_timer timer_;
  bool woken_ = false;
};

}  // namespace hostler
