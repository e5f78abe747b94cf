// A blocking HTTP client for tests, close to the wire.
#pragma once

#include <poll.h>

#include <map>
#include <string>

#include "gtest/gtest.h"
#include "router/net/asio.h"

namespace hostler {

struct TestResponse {
  int status = 0;
  std::string body;                            // chunks joined
  std::map<std::string, std::string> headers;  // names in lower case
};

// A socket whose reads fail after ten seconds without data.
class TimedSocket {
 public:
  explicit TimedSocket(tcp::socket* socket) : socket_(socket) {}

  template <typename Buffers>
  size_t read_some(const Buffers& buffers, boost::system::error_code& ec) {
    pollfd wait = {socket_->native_handle(), POLLIN, 0};
    if (poll(&wait, 1, 10'000) > 0) return socket_->read_some(buffers, ec);
    ec = net::error::timed_out;
    return 0;
  }
  template <typename Buffers>
  size_t read_some(const Buffers& buffers) {
    boost::system::error_code ec;
    const size_t bytes = read_some(buffers, ec);
    if (ec) throw boost::system::system_error(ec);
    return bytes;
  }

 private:
  tcp::socket* socket_;
};

class TestClient {
 public:
  explicit TestClient(int port) : socket_(io_) {
    boost::system::error_code ec;
    socket_.connect({net::ip::address_v4::loopback(), static_cast<uint16_t>(port)}, ec);
    EXPECT_FALSE(ec) << ec.message();
  }

  bool Send(const std::string& text) {
    boost::system::error_code ec;
    net::write(socket_, net::buffer(text), ec);
    return !ec;
  }

  void SendRequest(const std::string& method, const std::string& path, const std::string& body = "",
                   const std::string& more_headers = "") {
    Send(method + " " + path + " HTTP/1.1\r\nHost: test\r\n" + more_headers +
         (method == "POST" ? "Content-Length: " + std::to_string(body.size()) + "\r\n" : "") +
         "\r\n" + body);
  }

  TestResponse Get(const std::string& path) {
    SendRequest("GET", path);
    return Read();
  }
  TestResponse Post(const std::string& path, const std::string& body,
                    const std::string& more_headers = "") {
    SendRequest("POST", path, body, more_headers);
    return Read();
  }

  // One response; status 0 when there is none.
  TestResponse Read(bool has_body = true) {
    http::response_parser<http::string_body> parser;
    parser.body_limit(64 << 20);
    parser.skip(!has_body);
    boost::system::error_code ec;
    http::read(timed_, buffer_, parser, ec);
    TestResponse response;
    if (ec) return response;
    response.status = parser.get().result_int();
    response.body = parser.get().body();
    for (const auto& field : parser.get()) {
      std::string name(field.name_string());
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      response.headers[name] = std::string(field.value());
    }
    return response;
  }

  // Everything up to and with `mark`; less if the server closes before.
  std::string ReadUntil(const std::string& mark) {
    boost::system::error_code ec;
    std::string text = Take();
    while (text.find(mark) == text.npos && !ec) {
      buffer_.commit(timed_.read_some(buffer_.prepare(4096), ec));
      text += Take();
    }
    const size_t found = text.find(mark);
    const size_t taken = found == text.npos ? text.size() : found + mark.size();
    net::buffer_copy(buffer_.prepare(text.size() - taken), net::buffer(text) + taken);
    buffer_.commit(text.size() - taken);
    text.resize(taken);
    return text;
  }

  // Everything until the server closes.
  std::string ReadAll() {
    boost::system::error_code ec;
    while (!ec) buffer_.commit(timed_.read_some(buffer_.prepare(4096), ec));
    closed_ = ec == net::error::eof || ec == net::error::connection_reset;
    return Take();
  }
  // The server closed, as ReadAll met it.
  bool closed() const { return closed_; }

  tcp::socket& socket() { return socket_; }

 private:
  std::string Take() {
    std::string text = beast::buffers_to_string(buffer_.data());
    buffer_.clear();
    return text;
  }

  net::io_context io_;
  tcp::socket socket_;
  TimedSocket timed_{&socket_};
  beast::flat_buffer buffer_;
  bool closed_ = false;
};

}  // namespace hostler
