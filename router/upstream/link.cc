#include "router/upstream/link.h"

#include <openssl/ssl.h>
#include <sys/socket.h>

#include "boost/asio/ssl/host_name_verification.hpp"

namespace hostler {
namespace {

constexpr size_t kReadBytes = 16 << 10;
// A chunk's head or a header line must fit.
constexpr size_t kMaxBufferBytes = 128 << 10;

bool IsAddress(const std::string& host) {
  boost::system::error_code ec;
  net::ip::make_address(host, ec);
  return !ec;
}

}  // namespace

Link::Link(const IoExecutor& executor, net::ssl::context* tls, const std::string& host)
    : host_(host), buffer_(kMaxBufferBytes) {
  if (tls == nullptr) {
    plain_ = std::make_unique<TcpStream>(executor);
  } else {
    tls_ = std::make_unique<beast::ssl_stream<TcpStream>>(TcpStream(executor), *tls);
  }
}

Task<Link::ErrorCode> Link::Connect(const Endpoints& endpoints, TimePoint deadline) {
  ErrorCode ec;
  TcpStream& stream = tcp_stream();
  stream.expires_at(deadline);
  co_await stream.async_connect(endpoints, net::redirect_error(kAwait, ec));
  if (ec) co_return ec;
  ErrorCode ignored;
  stream.socket().set_option(tcp::no_delay(true), ignored);
  if (tls_ == nullptr) co_return ec;
  // Server name indication is for names alone.
  if (!IsAddress(host_)) SSL_set_tlsext_host_name(tls_->native_handle(), host_.c_str());
  tls_->set_verify_mode(net::ssl::verify_peer, ec);
  if (!ec) tls_->set_verify_callback(net::ssl::host_name_verification(host_), ec);
  if (ec) co_return ec;
  co_await tls_->async_handshake(net::ssl::stream_base::client, net::redirect_error(kAwait, ec));
  co_return ec;
}

Task<Link::ErrorCode> Link::Write(std::string_view text, TimePoint deadline) {
  ErrorCode ec;
  tcp_stream().expires_at(deadline);
  const net::const_buffer all(text.data(), text.size());
  if (tls_ != nullptr) {
    co_await net::async_write(*tls_, all, net::redirect_error(kAwait, ec));
  } else {
    co_await net::async_write(*plain_, all, net::redirect_error(kAwait, ec));
  }
  co_return ec;
}

Task<Link::ErrorCode> Link::Read(TimePoint deadline) {
  ErrorCode ec;
  const size_t room = std::min(kReadBytes, buffer_.max_size() - buffer_.size());
  if (room == 0) co_return make_error_code(http::error::buffer_overflow);
  tcp_stream().expires_at(deadline);
  const net::mutable_buffer to = buffer_.prepare(room);
  size_t bytes = 0;
  if (tls_ != nullptr) {
    bytes = co_await tls_->async_read_some(to, net::redirect_error(kAwait, ec));
    // Without TLS's own goodbye; HTTP tells whether something is missing.
    if (ec == net::ssl::error::stream_truncated) ec = net::error::eof;
  } else {
    bytes = co_await plain_->async_read_some(to, net::redirect_error(kAwait, ec));
  }
  buffer_.commit(bytes);
  co_return ec;
}

void Link::Close() { tcp_stream().close(); }

bool Link::stale() {
  if (!tcp_stream().socket().is_open() || buffer_.size() > 0) return true;
  char byte = 0;
  const ssize_t got =
      recv(tcp_stream().socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0) return errno != EAGAIN && errno != EWOULDBLOCK;
  // TLS may have sent session tickets.
  return got == 0 || tls_ == nullptr;
}

}  // namespace hostler
