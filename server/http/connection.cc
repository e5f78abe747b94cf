#include "server/http/connection.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <utility>
#include <variant>

#include "fmt/chrono.h"
#include "fmt/format.h"
#include "server/http/request_head.h"
#include "server/openai/answer.h"

namespace hostler {
namespace {

using boost::system::error_code;
using std::chrono::steady_clock;

constexpr size_t kWatchBytes = 1024;
// Requests sent ahead of their turn are read this far, then left to TCP.
constexpr size_t kMaxAheadBytes = 64 << 10;
constexpr size_t kWriteBytes = 32 << 10;
constexpr auto kLinger = std::chrono::seconds(3);
constexpr auto kNever = steady_clock::time_point::max();

// The answer to what cannot be read as a request; none to a client that left.
std::optional<Reply> ReplyToUnreadable(error_code ec, const HttpOptions& options) {
  if (ec == http::error::body_limit) {
    return ErrorReply(413, fmt::format("the body is larger than {} bytes", options.max_body_bytes));
  }
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return ErrorReply(
        431, fmt::format("the headers are larger than {} bytes", options.max_header_bytes));
  }
  const bool is_http = ec.category() == http::make_error_code(http::error::bad_method).category();
  if (!is_http || ec == http::error::end_of_stream || ec == http::error::partial_message) {
    return std::nullopt;
  }
  return ErrorReply(400, fmt::format("not an HTTP request: {}", ec.message()));
}

bool IsLoopback(const net::ip::address& address) {
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return net::ip::make_address_v4(net::ip::v4_mapped, address.to_v6()).is_loopback();
  }
  return address.is_loopback();
}

auto Redirect(error_code* ec) { return net::redirect_error(kAwait, *ec); }

}  // namespace

Connection::Connection(TcpStream stream, ServerContext* server, ReadyList<Connection>* ready,
                       std::function<void()> on_close)
    : stream_(std::move(stream)),
      wakeup_(stream_.get_executor()),
      server_(server),
      ready_(ready),
      on_close_(std::move(on_close)),
      buffer_(server->options.max_header_bytes + kMaxAheadBytes + kWatchBytes) {
  error_code ec;
  const tcp::endpoint peer = stream_.socket().remote_endpoint(ec);
  if (!ec) {
    loopback_ = IsLoopback(peer.address());
    const std::string address = peer.address().to_string();
    peer_ =
        fmt::format("{}:{}", peer.address().is_v6() ? "[" + address + "]" : address, peer.port());
  }
  stream_.socket().set_option(tcp::no_delay(true), ec);
  stream_.socket().non_blocking(true, ec);
}

Connection::~Connection() {
  DropBody();
  on_close_();
}

void Connection::Start() {
  net::co_spawn(stream_.get_executor(), Run(shared_from_this()), net::detached);
}

void Connection::Stop(bool at_once) {
  net::post(stream_.get_executor(), [self = shared_from_this(), at_once] {
    if (self->idle_ || at_once) self->HangUp();
  });
}

Task<void> Connection::Run(std::shared_ptr<Connection> self) {
  co_await self->ServeRequests();
  self->generation_.reset();
  error_code ec;
  self->stream_.socket().shutdown(tcp::socket::shutdown_both, ec);
  self->stream_.close();
}

Task<void> Connection::ServeRequests() {
  while (co_await AwaitRequest()) {
    if (!co_await ReadRequest()) break;
    Watch();
    const bool open = co_await Answer();
    generation_.reset();
    if (!open || gone_ || !keep_alive_ || server_->stopping) break;
  }
}

Task<bool> Connection::AwaitRequest() {
  if (buffer_.size() == 0) {
    if (!watching_) buffer_.shrink_to_fit();
    idle_ = true;
    const auto deadline = steady_clock::now() + server_->options.idle_timeout;
    Watch();
    bool in_time = !server_->stopping;
    while (in_time && watching_ && !gone_) in_time = co_await wakeup_.Wait(deadline);
    idle_ = false;
    if (!in_time) co_return false;
  }
  // The parser reads by itself now; a read of ours must not be in its way.
  watch_unwanted_ = true;
  if (watching_) stream_.cancel();
  while (watching_) co_await wakeup_.Wait(kNever);
  watch_unwanted_ = false;
  co_return !gone_;
}

Task<bool> Connection::ReadRequest() {
  const HttpOptions& options = server_->options;
  Parser parser;
  parser.header_limit(uint32_t(options.max_header_bytes));
  parser.body_limit(options.max_body_bytes);
  error_code ec;
  stream_.expires_after(options.header_timeout);
  co_await http::async_read_header(stream_, buffer_, parser, Redirect(&ec));
  if (!ec && parser.get().count(http::field::host) > 1) {
    co_await RefuseUnread(ErrorReply(400, "the request has more than one Host"));
    co_return false;
  }
  if (!ec && !parser.is_done()) {
    if (!ReserveBody(parser)) {
      co_await RefuseUnread(
          ErrorReply(absl::UnavailableError("too many large requests at the same time")));
      co_return false;
    }
    if (WantsContinue(parser.get())) co_await Write("HTTP/1.1 100 Continue\r\n\r\n");
    stream_.expires_after(options.body_timeout);
    co_await http::async_read(stream_, buffer_, parser, Redirect(&ec));
  }
  if (ec) {
    const std::optional<Reply> reply = ReplyToUnreadable(ec, options);
    if (reply.has_value()) co_await RefuseUnread(*reply);
    co_return false;
  }
  TakeRequest(&parser);
  co_return true;
}

bool Connection::ReserveBody(const Parser& parser) {
  const auto length = parser.content_length();
  const size_t bytes = length.has_value() ? size_t(*length) : server_->options.max_body_bytes;
  if (!server_->bodies.Take(bytes)) return false;
  reserved_bytes_ = bytes;
  return true;
}

void Connection::DropBody() {
  request_.body = std::string();
  server_->bodies.Give(std::exchange(reserved_bytes_, 0));
}

Task<void> Connection::RefuseUnread(Reply reply) {
  keep_alive_ = false;
  head_only_ = false;
  request_id_.clear();
  const bool sent = co_await SendReply(reply);
  if (sent) co_await Linger();
}

void Connection::TakeRequest(Parser* parser) {
  keep_alive_ = parser->keep_alive();
  http_version_ = parser->get().version();
  request_ = ReadHead(parser->get());
  request_.body = std::move(parser->get().body());
  request_.peer = peer_;
  request_.loopback = loopback_;
  request_id_ = request_.request_id;
  head_only_ = request_.method == "HEAD";
}

Task<bool> Connection::Answer() {
  Outcome outcome;
  if (request_.body.empty()) {
    // Nothing to parse. A health check must not wait for long prompts.
    outcome = Dispatch(server_->service, server_->options.admin, request_);
  } else {
    co_await RunDispatch(&outcome);
  }
  DropBody();
  if (gone_) co_return false;
  if (const Reply* reply = std::get_if<Reply>(&outcome)) co_return co_await SendReply(*reply);
  generation_ = std::move(std::get<std::unique_ptr<Generation>>(outcome));
  if (request_id_.empty()) request_id_ = generation_->id();
  ArmGeneration();
  co_return co_await SendGeneration();
}

Task<void> Connection::RunDispatch(Outcome* outcome) {
  const auto initiate = [this, outcome](auto handler) {
    // The guard keeps the server's threads running for the way back.
    auto guard = net::make_work_guard(stream_.get_executor());
    net::post(*server_->workers,
              [this, outcome, guard = std::move(guard), handler = std::move(handler)]() mutable {
                *outcome = Dispatch(server_->service, server_->options.admin, request_);
                net::post(guard.get_executor(), std::move(handler));
              });
  };
  co_await net::async_initiate<const net::use_awaitable_t<IoExecutor>&, void()>(initiate, kAwait);
}

Task<bool> Connection::SendReply(const Reply& reply) {
  std::string text = Head(reply.status, reply.content_type, reply.headers, reply.body.size());
  if (!head_only_) text += reply.body;
  co_return co_await Write(text);
}

void Connection::ArmGeneration() {
  generation_->OnReady([is_ready = is_ready_, ready = ready_, weak = weak_from_this()] {
    if (!is_ready->exchange(true)) ready->Add(weak);
  });
}

void Connection::OnNews() {
  is_ready_->store(false);
  wakeup_.Wake();
}

Task<bool> Connection::SendGeneration() {
  bool head_sent = false;
  for (;;) {
    text_.clear();
    const bool over = generation_->Advance(kWriteBytes, &text_);
    if (!over && text_.empty()) {
      co_await wakeup_.Wait(kNever);
      if (gone_) co_return false;
      continue;
    }
    if (over && !generation_->status().ok()) {
      const absl::Status status = generation_->status();
      if (!head_sent && text_.empty()) co_return co_await SendReply(ErrorReply(status));
      text_ += ErrorEvent(status);
      co_await SendPiece(text_, &head_sent, /*last=*/false);  // cut off: the client sees it failed
      co_return false;
    }
    if (!generation_->streamed()) {
      Reply reply;
      reply.body = std::move(text_);
      co_return co_await SendReply(reply);
    }
    if (!co_await SendPiece(text_, &head_sent, over)) co_return false;
    if (over) co_return true;
  }
}

Task<bool> Connection::SendPiece(std::string_view text, bool* head_sent, bool last) {
  const bool chunked = http_version_ >= 11;
  piece_.clear();
  if (!*head_sent) {
    *head_sent = true;
    if (!chunked) keep_alive_ = false;
    Headers headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    if (chunked) headers.emplace_back("Transfer-Encoding", "chunked");
    piece_ = Head(200, "text/event-stream; charset=utf-8", headers, std::nullopt);
  }
  if (chunked) {
    char digits[16];
    const auto end = std::to_chars(std::begin(digits), std::end(digits), text.size(), 16);
    piece_.append(digits, end.ptr);
    piece_ += "\r\n";
  }
  piece_ += text;
  if (chunked) piece_ += last ? "\r\n0\r\n\r\n" : "\r\n";
  co_return co_await Write(piece_);
}

std::string Connection::Head(int status, const std::string& content_type, const Headers& headers,
                             std::optional<size_t> length) const {
  const std::string_view reason = status == 499 ? "Client Closed Request" : ReasonPhrase(status);
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nServer: hostler\r\n", status, reason);
  head += fmt::format("Date: {:%a, %d %b %Y %H:%M:%S} GMT\r\n", fmt::gmtime(std::time(nullptr)));
  AppendHeader("Content-Type", content_type, &head);
  if (length.has_value()) AppendHeader("Content-Length", std::to_string(*length), &head);
  for (const auto& [name, value] : headers) AppendHeader(name, value, &head);
  if (generation_ != nullptr) {
    for (const auto& [name, value] : generation_->headers()) AppendHeader(name, value, &head);
  }
  if (!request_id_.empty()) AppendHeader("x-request-id", request_id_, &head);
  const bool stays_open = keep_alive_ && !server_->stopping;
  if (!stays_open) AppendHeader("Connection", "close", &head);
  if (stays_open && http_version_ < 11) AppendHeader("Connection", "keep-alive", &head);
  return head + "\r\n";
}

Task<bool> Connection::Write(std::string_view text) {
  while (!text.empty() && !gone_) {
    error_code ec;
    // The socket nearly always has room, and then no timer is needed.
    size_t written = stream_.socket().write_some(net::buffer(text), ec);
    if (ec == net::error::would_block) {
      stream_.expires_after(server_->options.write_timeout);
      written = co_await stream_.async_write_some(net::buffer(text), Redirect(&ec));
    }
    if (ec) co_return false;
    text.remove_prefix(written);
  }
  co_return !gone_;
}

Task<void> Connection::Linger() {
  error_code ec;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ec);
  stream_.expires_after(kLinger);
  while (!ec) {
    buffer_.clear();
    co_await stream_.async_read_some(buffer_.prepare(kWatchBytes), Redirect(&ec));
  }
}

void Connection::Watch() {
  if (watching_ || gone_ || buffer_.size() > kMaxAheadBytes) return;
  watching_ = true;
  stream_.expires_never();
  stream_.async_read_some(
      buffer_.prepare(kWatchBytes),
      [self = shared_from_this()](error_code ec, size_t bytes) { self->OnWatched(ec, bytes); });
}

void Connection::OnWatched(error_code ec, size_t bytes) {
  watching_ = false;
  buffer_.commit(bytes);
  if (ec && !(watch_unwanted_ && ec == net::error::operation_aborted)) return HangUp();
  if (!idle_ && !watch_unwanted_) Watch();
  wakeup_.Wake();
}

void Connection::HangUp() {
  gone_ = true;
  generation_.reset();
  stream_.close();
  wakeup_.Wake();
}

}  // namespace hostler
