#include "router/upstream/http_call.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/status.h"
#include "fmt/format.h"
#include "router/upstream/errors.h"

namespace hostler {
namespace {

using boost::system::error_code;
using std::chrono::steady_clock;

constexpr uint32_t kMaxHeadBytes = 64 << 10;
constexpr int kMaxInterim = 8;  // responses 1xx before the real one

}  // namespace

HttpCall::HttpCall(LinkPool* pool, std::string upstream)
    : pool_(pool), upstream_(std::move(upstream)) {}

HttpCall::~HttpCall() {
  const bool reusable = link_ != nullptr && !closed_ && done() && parser_->keep_alive() &&
                        link_->buffer().size() == 0;
  if (reusable) pool_->Keep(std::move(link_));
}

void HttpCall::Close() {
  closed_ = true;
  if (link_ != nullptr) link_->Close();
}

absl::Status HttpCall::Fail(UpstreamFailure failure, const std::string& what) {
  failure_ = failure;
  if (closed_) {
    failure_ = UpstreamFailure::kCancelled;
    return absl::CancelledError("the request was cancelled");
  }
  if (failure == UpstreamFailure::kTimeout) {
    timed_out_ = true;
    return absl::DeadlineExceededError(fmt::format("upstream \"{}\" {}", upstream_, what));
  }
  if (failure == UpstreamFailure::kConnect) {
    return absl::UnavailableError(fmt::format("upstream \"{}\" {}", upstream_, what));
  }
  return BadAnswer(upstream_, what);
}

absl::Status HttpCall::Fail(UpstreamFailure failure, error_code ec, const char* doing) {
  if (ec == beast::error::timeout) {
    return Fail(UpstreamFailure::kTimeout, fmt::format("took too long {}", doing));
  }
  return Fail(failure, fmt::format("failed {}: {}", doing, ec.message()));
}

Task<absl::Status> HttpCall::Connect(Deadlines deadlines) {
  ++connections_;
  const TimePoint deadline = std::min(steady_clock::now() + deadlines.connect, deadlines.response);
  absl::StatusOr<Link::Endpoints> endpoints = co_await pool_->Resolve(deadline);
  if (!endpoints.ok()) {
    const bool late = absl::IsDeadlineExceeded(endpoints.status());
    const std::string what(endpoints.status().message());
    co_return Fail(late ? UpstreamFailure::kTimeout : UpstreamFailure::kConnect,
                   "cannot be reached: " + what);
  }
  if (closed_) co_return Fail(UpstreamFailure::kCancelled, "");
  link_ = pool_->NewLink();
  const error_code ec = co_await link_->Connect(*endpoints, deadline);
  if (ec) {
    pool_->ForgetAddresses();
    co_return Fail(UpstreamFailure::kConnect, ec, "connecting");
  }
  co_return absl::OkStatus();
}

Task<absl::Status> HttpCall::Send(const std::string& request, Deadlines deadlines) {
  link_ = pool_->TakeKept();
  for (;;) {
    const bool kept = link_ != nullptr;
    if (!kept) {
      const absl::Status connected = co_await Connect(deadlines);
      if (!connected.ok()) co_return connected;
    }
    heard_ = false;
    const error_code ec = co_await link_->Write(request, deadlines.response);
    absl::Status status;
    if (ec == beast::error::timeout || closed_) {
      status = Fail(UpstreamFailure::kTimeout, ec, "taking the request");
      co_return status;
    }
    // It may have answered before it read everything, and closed then.
    status = co_await ReadHead(deadlines.response);
    const bool was_closed = !status.ok() && !heard_ && !timed_out_ && !closed_;
    if (!kept || !was_closed) co_return status;
    ++retries_;
    link_.reset();
  }
}

Task<absl::Status> HttpCall::ReadHead(TimePoint deadline) {
  for (int i = 0; i <= kMaxInterim; ++i) {
    parser_ = std::make_unique<Parser>();
    parser_->eager(true);
    parser_->header_limit(kMaxHeadBytes);
    parser_->body_limit(std::numeric_limits<uint64_t>::max());
    while (!parser_->is_header_done()) {
      const absl::Status status = co_await Advance(deadline);
      if (!status.ok()) co_return status;
    }
    if (status() >= 200) co_return absl::OkStatus();
  }
  co_return Fail(UpstreamFailure::kProtocol, "sends interim responses without end");
}

Task<absl::Status> HttpCall::Read(TimePoint deadline, std::string* to) {
  std::string& body = parser_->get().body();
  while (body.empty() && !parser_->is_done()) {
    const absl::Status status = co_await Advance(deadline);
    if (!status.ok()) co_return status;
  }
  *to += body;
  body.clear();
  co_return absl::OkStatus();
}

Task<absl::Status> HttpCall::Advance(TimePoint deadline) {
  if (link_->buffer().size() > 0) {
    const size_t before = link_->buffer().size();
    const absl::Status status = Parse();
    if (!status.ok() || link_->buffer().size() < before || parser_->is_done()) co_return status;
  }
  const error_code ec = co_await link_->Read(deadline);
  if (closed_) co_return Fail(UpstreamFailure::kCancelled, "");
  if (ec == net::error::eof) co_return ParseEnd();
  if (ec == http::error::buffer_overflow) {
    co_return Fail(UpstreamFailure::kProtocol, "sends a head or a chunk's head without end");
  }
  if (ec == beast::error::timeout) {
    co_return Fail(UpstreamFailure::kTimeout, ec, "to answer");
  }
  if (ec) {
    const bool begun = heard_ && parser_->is_header_done();
    co_return Fail(begun ? UpstreamFailure::kTruncated : UpstreamFailure::kConnect, ec,
                   "while it answered");
  }
  heard_ = true;
  co_return Parse();
}

absl::Status HttpCall::Parse() {
  error_code ec;
  beast::flat_buffer& buffer = link_->buffer();
  buffer.consume(parser_->put(buffer.cdata(), ec));
  if (!ec || ec == http::error::need_more) return absl::OkStatus();
  return Fail(UpstreamFailure::kProtocol, fmt::format("does not speak HTTP: {}", ec.message()));
}

absl::Status HttpCall::ParseEnd() {
  error_code ec;
  if (!heard_) {
    return Fail(UpstreamFailure::kConnect, "closed the connection without an answer");
  }
  if (!parser_->is_header_done()) {
    return Fail(UpstreamFailure::kTruncated, "closed the connection in its answer's head");
  }
  parser_->put_eof(ec);
  if (!ec) return absl::OkStatus();
  return Fail(UpstreamFailure::kTruncated, "closed the connection before its answer's end");
}

}  // namespace hostler
