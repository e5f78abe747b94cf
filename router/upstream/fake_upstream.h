// An OpenAI-compatible server for tests, on a free loopback port: what it does with
// each request is the test's to say, down to the bytes.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "boost/asio/ssl.hpp"
#include "router/net/asio.h"

namespace hostler {

struct FakeRequest {
  std::string method, path, body;
  std::map<std::string, std::string> headers;  // names in lower case
};

// A connection to a FakeUpstream, as its handler has it. Calls block.
class FakeConnection {
 public:
  FakeConnection(net::io_context& io, net::ssl::context* tls) : socket_(io) {
    if (tls != nullptr) tls_ = std::make_unique<TlsStream>(socket_, *tls);
  }

  tcp::socket& socket() { return socket_; }

  bool Handshake() {
    boost::system::error_code ec;
    if (tls_ != nullptr) tls_->handshake(net::ssl::stream_base::server, ec);
    return !ec;
  }

  // Bytes as they are. False: the client has gone.
  bool Send(const std::string& bytes) {
    boost::system::error_code ec;
    if (tls_ != nullptr) {
      net::write(*tls_, net::buffer(bytes), ec);
    } else {
      net::write(socket_, net::buffer(bytes), ec);
    }
    return !ec;
  }

  // A whole response.
  bool Reply(int status, const std::string& type, const std::string& body,
             const std::string& more_headers = "") {
    return Send("HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Type: " + type +
                "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + more_headers +
                "\r\n" + body);
  }

  // The head of a chunked stream, a chunk of it, and its end.
  bool BeginStream() {
    return Send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        "Transfer-Encoding: chunked\r\n\r\n");
  }
  bool Chunk(const std::string& bytes) {
    char size[32];
    std::snprintf(size, sizeof(size), "%zx\r\n", bytes.size());
    return Send(size + bytes + "\r\n");
  }
  bool Data(const std::string& json) { return Chunk("data: " + json + "\n\n"); }
  bool EndStream() { return Send("0\r\n\r\n"); }

  // The connection ends when the handler returns.
  void CloseAfter() { close_ = true; }
  bool close() const { return close_; }

  // Blocks until the client has closed; false: not within `seconds`.
  bool WaitUntilClosed(double seconds = 10) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < end) {
      char byte = 0;
      const auto got = recv(socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
  }

  // One request; false: there is none.
  bool Read(FakeRequest* request) {
    while (buffer_.find("\r\n\r\n") == buffer_.npos) {
      if (!ReadMore()) return false;
    }
    const size_t end = buffer_.find("\r\n\r\n") + 4;
    const std::string head = buffer_.substr(0, end);
    buffer_.erase(0, end);
    *request = {};
    request->method = head.substr(0, head.find(' '));
    const size_t path = request->method.size() + 1;
    request->path = head.substr(path, head.find(' ', path) - path);
    for (size_t at = head.find("\r\n") + 2; at + 2 < head.size();) {
      const size_t line_end = head.find("\r\n", at);
      const size_t colon = head.find(": ", at);
      std::string name = head.substr(at, colon - at);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      request->headers[name] = head.substr(colon + 2, line_end - colon - 2);
      at = line_end + 2;
    }
    const auto length = request->headers.find("content-length");
    const size_t bytes = length == request->headers.end() ? 0 : std::stoul(length->second);
    while (buffer_.size() < bytes) {
      if (!ReadMore()) return false;
    }
    request->body = buffer_.substr(0, bytes);
    buffer_.erase(0, bytes);
    return true;
  }

 private:
  using TlsStream = net::ssl::stream<tcp::socket&>;

  bool ReadMore() {
    char bytes[4096];
    boost::system::error_code ec;
    const size_t got = tls_ != nullptr ? tls_->read_some(net::buffer(bytes), ec)
                                       : socket_.read_some(net::buffer(bytes), ec);
    buffer_.append(bytes, got);
    return !ec;
  }

  tcp::socket socket_;
  std::unique_ptr<TlsStream> tls_;
  std::string buffer_;
  bool close_ = false;
};

class FakeUpstream {
 public:
  // Runs on a thread of its connection.
  using Handler = std::function<void(const FakeRequest& request, FakeConnection& connection)>;

  // `handler` has all requests but GET, which get 200, or what set_health says.
  explicit FakeUpstream(Handler handler, net::ssl::context* tls = nullptr)
      : handler_(std::move(handler)), tls_(tls) {
    thread_ = std::thread([this] { Accept(); });
  }
  ~FakeUpstream() {
    Stop();
    thread_.join();
  }

  int port() const { return port_; }
  std::string url() const {
    return (tls_ != nullptr ? "https://localhost:" : "http://127.0.0.1:") + std::to_string(port_);
  }
  void set_health(int status) { health_ = status; }

  // All but GET.
  std::vector<FakeRequest> requests() const {
    std::lock_guard lock(mutex_);
    return requests_;
  }
  int connections() const {
    std::lock_guard lock(mutex_);
    return int(connections_.size());
  }

  // Takes no more connections and cuts off those there are.
  void Stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    boost::system::error_code ec;
    shutdown(acceptor_.native_handle(), SHUT_RDWR);  // wakes accept()
    for (const auto& connection : connections_) {
      connection->socket().shutdown(tcp::socket::shutdown_both, ec);
    }
  }

 private:
  void Accept() {
    std::list<std::thread> threads;
    for (;;) {
      const auto connection = std::make_shared<FakeConnection>(io_, tls_);
      boost::system::error_code ec;
      acceptor_.accept(connection->socket(), ec);
      std::lock_guard lock(mutex_);
      if (ec || stopped_) break;
      connections_.push_back(connection);
      threads.emplace_back([this, connection] { Serve(connection.get()); });
    }
    for (std::thread& thread : threads) thread.join();
  }

  void Serve(FakeConnection* connection) {
    FakeRequest request;
    if (!connection->Handshake()) return;
    while (!connection->close() && connection->Read(&request)) {
      if (request.method == "GET") {
        connection->Reply(health_, "application/json", "{}");
        continue;
      }
      {
        std::lock_guard lock(mutex_);
        requests_.push_back(request);
      }
      handler_(request, *connection);
    }
    boost::system::error_code ec;
    connection->socket().shutdown(tcp::socket::shutdown_both, ec);
  }

  const Handler handler_;
  net::ssl::context* const tls_;
  net::io_context io_;
  tcp::acceptor acceptor_{io_, {net::ip::address_v4::loopback(), 0}};
  const int port_ = acceptor_.local_endpoint().port();
  std::atomic<int> health_{200};
  mutable std::mutex mutex_;
  bool stopped_ = false;
  std::vector<FakeRequest> requests_;
  std::vector<std::shared_ptr<FakeConnection>> connections_;
  std::thread thread_;
};

// JSON as an upstream writes it.
inline std::string FakeDelta(const std::string& content, int index = 0) {
  return R"({"id":"up-1","object":"chat.completion.chunk","model":"real","choices":[{"index":)" +
         std::to_string(index) + R"(,"delta":{"content":")" + content +
         R"("},"finish_reason":null}]})";
}
inline std::string FakeFinish(const std::string& reason = "stop", int index = 0) {
  return R"({"id":"up-1","object":"chat.completion.chunk","choices":[{"index":)" +
         std::to_string(index) + R"(,"delta":{},"finish_reason":")" + reason + R"("}]})";
}
inline std::string FakeUsage(int prompt, int completion) {
  return R"({"id":"up-1","choices":[],"usage":{"prompt_tokens":)" + std::to_string(prompt) +
         R"(,"completion_tokens":)" + std::to_string(completion) + "}}";
}
inline std::string FakeWhole(const std::string& content, int prompt = 5, int completion = 2) {
  return R"({"id":"up-2","object":"chat.completion","choices":[{"index":0,"message":{)"
         R"("role":"assistant","content":")" +
         content + R"("},"finish_reason":"stop"}],"usage":{"prompt_tokens":)" +
         std::to_string(prompt) + R"(,"completion_tokens":)" + std::to_string(completion) + "}}";
}

}  // namespace hostler
