// UpstreamIo: the thread that does all upstreams' I/O.
#pragma once

#include <thread>

#include "router/net/asio.h"

namespace hostler {

// Runs until it is destroyed, which nothing may still need: no work may be left.
class UpstreamIo {
 public:
  UpstreamIo() : thread_([this] { io_.run(); }) {}
  ~UpstreamIo() {
    work_.reset();
    thread_.join();
  }
  UpstreamIo(const UpstreamIo&) = delete;
  UpstreamIo& operator=(const UpstreamIo&) = delete;

  IoExecutor executor() { return io_.get_executor(); }

 private:
  net::io_context io_{1};
  net::executor_work_guard<IoExecutor> work_ = net::make_work_guard(io_);
  std::thread thread_;
};

}  // namespace hostler
