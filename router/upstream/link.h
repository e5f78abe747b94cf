// Link: one TCP or TLS connection to an upstream.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "boost/asio/ssl/context.hpp"
#include "boost/beast/ssl/ssl_stream.hpp"
#include "router/net/asio.h"

namespace hostler {

// Used by its executor's thread. At most one read and one write at a time.
class Link {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using ErrorCode = boost::system::error_code;
  using Endpoints = std::vector<tcp::endpoint>;

  // `tls` null: plain TCP. `host`: the name that the certificate must be for.
  Link(const IoExecutor& executor, net::ssl::context* tls, const std::string& host);

  // Each with an error beast::error::timeout when `deadline` passes, after which
  // the link is of no use.
  Task<ErrorCode> Connect(const Endpoints& endpoints, TimePoint deadline);
  Task<ErrorCode> Write(std::string_view text, TimePoint deadline);
  // Adds what comes to buffer(), at most to its limit. End of file is an error.
  Task<ErrorCode> Read(TimePoint deadline);

  // What runs ends with operation_aborted.
  void Close();
  // It can be seen that the other side has closed it, or sent what nobody asked for.
  bool stale();

  beast::flat_buffer& buffer() { return buffer_; }
  // A request was answered over it before.
  bool used() const { return used_; }
  void set_used(TimePoint now) {
    used_ = true;
    idle_since_ = now;
  }
  TimePoint idle_since() const { return idle_since_; }

 private:
  TcpStream& tcp_stream() { return tls_ != nullptr ? tls_->next_layer() : *plain_; }

  std::unique_ptr<TcpStream> plain_;
  std::unique_ptr<beast::ssl_stream<TcpStream>> tls_;
  std::string host_;
  beast::flat_buffer buffer_;
  bool used_ = false;
  TimePoint idle_since_{};
};

}  // namespace hostler
