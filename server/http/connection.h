// Connection: one client's TCP connection, from accept to close.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "router/net/asio.h"
#include "router/net/wakeup.h"
#include "server/http/generation.h"
#include "server/http/http_server.h"
#include "server/http/reply.h"
#include "server/http/routes.h"
#include "server/ready_list.h"

namespace hostler {

// Bounds the bytes of the bodies that all connections hold together.
// Thread-safe.
class BodyBudget {
 public:
  explicit BodyBudget(size_t bytes) : left_(static_cast<int64_t>(bytes)) {}

  bool Take(size_t bytes) {
    if (left_.fetch_sub(static_cast<int64_t>(bytes)) >= static_cast<int64_t>(bytes)) return true;
    Give(bytes);
    return false;
  }
  void Give(size_t bytes) { left_.fetch_add(static_cast<int64_t>(bytes)); }

 private:
  std::atomic<int64_t> left_;
};

// What all connections of a server share. Outlives them.
struct ServerContext {
  ServerContext(const HttpOptions& options, Service* service, net::thread_pool* workers)
      : options(options), service(service), workers(workers), bodies(options.max_bodies_bytes) {}

  const HttpOptions options;
  Service* const service;
  net::thread_pool* const workers;  // for Dispatch
  BodyBudget bodies;
  std::atomic<bool> stopping{false};
};

// Serves its requests one after the other, each read whole before it is
// answered. While an answer is made, a read watches for the client: when it
// hangs up, the answer is dropped at once. At most one write is under way and
// no event is taken from the engine meanwhile, so that a slow reader holds up
// only its own request.
//
// All private members belong to the thread of its stream. The coroutine holds a
// reference, which keeps the connection alive until it is closed.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `on_close` runs once, from the destructor. `ready` is run by the stream's
  // thread and outlives the connection.
  Connection(TcpStream stream, ServerContext* server, ReadyList<Connection>* ready,
             std::function<void()> on_close);
  ~Connection();

  void Start();

  // Any thread. Closes an idle connection now, a busy one after its answer, or
  // with `at_once` cuts it off.
  void Stop(bool at_once);

  // The stream's thread: the answer may go on.
  void OnNews();

 private:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Parser = http::request_parser<http::string_body>;

  static Task<void> Run(std::shared_ptr<Connection> self);
  Task<void> ServeRequests();

  // Waits for the next request's first byte. False: close.
  Task<bool> AwaitRequest();
  // Reads one request into request_. False: close (an answer may have been sent).
  Task<bool> ReadRequest();
  // Room in the server's budget for the body whose head `parser` has read.
  bool ReserveBody(const Parser& parser);
  void DropBody();
  Task<void> RefuseUnread(Reply reply);
  void TakeRequest(Parser* parser);

  // Runs Dispatch on a worker, then writes what came of it. False: close.
  Task<bool> Answer();
  Task<void> RunDispatch(Outcome* outcome);
  Task<bool> SendReply(const Reply& reply);
  Task<bool> SendGeneration();
  // Up to kWriteBytes of the stream; the response's head comes with the first,
  // what ends it with the last.
  Task<bool> SendPiece(std::string_view text, bool* head_sent, bool last);

  std::string Head(int status, const std::string& content_type, const Headers& headers,
                   std::optional<size_t> length) const;
  // Writes all of `text`, which stays valid until then; false when the client does
  // not take it.
  Task<bool> Write(std::string_view text);
  // Reads and drops what the client still sends, for a short while: closing
  // over unread input would take the answer back from it.
  Task<void> Linger();

  // Starts a read, unless there is one, that notices a hang-up.
  void Watch();
  void OnWatched(boost::system::error_code ec, size_t bytes);
  void HangUp();
  void ArmGeneration();

  TcpStream stream_;
  Wakeup wakeup_;  // of the coroutine
  ServerContext* const server_;
  ReadyList<Connection>* const ready_;
  const std::function<void()> on_close_;
  std::string peer_;
  bool loopback_ = false;  // the peer is on this machine

  beast::flat_buffer buffer_;  // read and not yet parsed
  bool watching_ = false;
  bool watch_unwanted_ = false;  // it is being cancelled
  bool gone_ = false;            // hung up, or cut off
  bool idle_ = false;            // between requests

  HttpRequest request_;
  size_t reserved_bytes_ = 0;  // for the body
  bool keep_alive_ = false;
  bool head_only_ = false;
  unsigned http_version_ = 11;
  std::string request_id_;
  std::unique_ptr<Generation> generation_;
  std::string text_, piece_;  // of the generation, and as it is written
  // Shared with the engine's thread: it is in ready_.
  std::shared_ptr<std::atomic<bool>> is_ready_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace hostler
