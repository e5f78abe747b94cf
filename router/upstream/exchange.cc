#include "router/upstream/exchange.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "engine/base/status.h"
#include "engine/base/wire_error.h"
#include "fmt/format.h"
#include "router/upstream/errors.h"

namespace hostler {
namespace {

using std::chrono::steady_clock;

constexpr size_t kMaxErrorBytes = 64 << 10;
constexpr auto kNever = steady_clock::time_point::max();
constexpr auto kRestTime = std::chrono::milliseconds(500);
constexpr char kUserAgent[] = "hostler";

steady_clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(seconds));
}

double Seconds(steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// Whether the client's own credentials are sent.
bool IsClients(const UpstreamCore& core, const GenerateRequest& request) {
  return core.options().forward_authorization && request.original != nullptr &&
         !request.original->authorization.empty();
}

std::string Authorization(const UpstreamCore& core, const GenerateRequest& request) {
  if (IsClients(core, request)) return request.original->authorization;
  return core.key().empty() ? "" : "Bearer " + core.key();
}

// What an upstream says must not repeat a secret.
void Redact(const std::string& secret, std::string* text) {
  if (secret.empty()) return;
  for (size_t at = 0; (at = text->find(secret, at)) != text->npos;) {
    text->replace(at, secret.size(), "***");
  }
}

// Whether a Content-Type, with its parameters, is `wanted`.
bool IsType(std::string_view content_type, std::string_view wanted) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  return beast::iequals({type.data(), type.size()}, {wanted.data(), wanted.size()});
}

}  // namespace

Exchange::Exchange(std::shared_ptr<UpstreamCore> core, EncodedRequest encoded,
                   const GenerateRequest& request, int prompt_tokens)
    : core_(std::move(core)),
      options_(core_->options()),
      encoded_(std::move(encoded)),
      id_(request.id),
      authorization_(Authorization(*core_, request)),
      own_key_(!IsClients(*core_, request)),
      arrival_(request.arrival),
      prompt_tokens_(prompt_tokens),
      wakeup_(core_->pool().executor()),
      call_(&core_->pool(), options_.name),
      answer_({.upstream = options_.name,
               .n = request.n,
               .chat = encoded_.chat,
               .pass_through = encoded_.pass_through,
               .hide_usage = encoded_.hide_usage}),
      events_(options_.max_event_bytes) {}

std::shared_ptr<GenerateStream> Exchange::Start() {
  stream_->OnDrain([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->OnTurn();
  });
  net::co_spawn(core_->pool().executor(), Run(shared_from_this()), net::detached);
  return stream_;
}

void Exchange::OnTurn() {
  net::post(core_->pool().executor(), [self = shared_from_this()] { self->Wake(); });
}

void Exchange::Wake() {
  if (!Interruption().ok()) call_.Close();
  wakeup_.Wake();
}

absl::Status Exchange::Interruption() {
  if (stream_->cancelled()) return absl::CancelledError("the request was cancelled");
  if (outcome_.total_s > 0) return absl::OkStatus();  // it has left the core
  absl::Status status;
  core_->StandingOf(this, &status);
  return status;
}

Task<void> Exchange::Run(std::shared_ptr<Exchange> self) {
  absl::Status status;
  try {
    status = co_await self->WaitForTurn();
    if (status.ok()) status = co_await self->Ask();
  } catch (const std::exception& error) {
    status =
        absl::InternalError(fmt::format("upstream \"{}\": {}", self->options_.name, error.what()));
    self->outcome_.failure = UpstreamFailure::kProtocol;
  }
  if (const absl::Status interrupted = self->Interruption(); !interrupted.ok() && !status.ok()) {
    status = interrupted;
    const bool left = self->stream_->cancelled() || self->outcome_.sent;
    self->outcome_.failure = left ? UpstreamFailure::kCancelled : UpstreamFailure::kRefused;
  }
  const bool ok = status.ok();
  self->End(std::move(status));
  if (ok) co_await self->ReadRest();
}

void Exchange::End(absl::Status status) {
  const TimePoint now = steady_clock::now();
  outcome_.ok = status.ok();
  outcome_.connections = call_.connections();
  outcome_.retries = call_.retries();
  outcome_.usage_told = answer_.usage_told();
  // What was not answered costs nothing.
  if (outcome_.ok || answer_.usage().completion_tokens > 0) {
    outcome_.usage = answer_.usage();
    if (!outcome_.usage_told) outcome_.usage.prompt_tokens = prompt_tokens_;
  }
  outcome_.total_s = std::max(1e-9, Seconds(now - (outcome_.sent ? sent_ : arrival_)));
  Timings timings;
  if (outcome_.sent) timings.queued_ms = 1000 * Seconds(sent_ - arrival_);
  if (first_token_ != TimePoint()) {
    if (encoded_.stream) outcome_.first_token_s = Seconds(first_token_ - sent_);
    timings.first_token_ms = 1000 * Seconds(first_token_ - arrival_);
  }
  timings.total_ms = 1000 * Seconds(now - arrival_);
  core_->Leave(this, outcome_);
  stream_->End(std::move(status), outcome_.usage, timings);
}

absl::Status Exchange::Fail(UpstreamFailure failure, absl::Status status) {
  outcome_.failure = failure;
  return status;
}

absl::Status Exchange::Broken(UpstreamFailure failure, std::string_view what) {
  return Fail(failure, BadAnswer(options_.name, what));
}

Task<absl::Status> Exchange::WaitForTurn() {
  const TimePoint deadline = steady_clock::now() + Duration(options_.queue_timeout_s);
  for (bool in_time = true;;) {
    absl::Status status = Interruption();
    if (!status.ok()) co_return Fail(UpstreamFailure::kRefused, std::move(status));
    const UpstreamCore::Standing standing = core_->StandingOf(this, &status);
    if (standing == UpstreamCore::Standing::kRunning) co_return absl::OkStatus();
    if (!in_time) {
      status = absl::ResourceExhaustedError(
          fmt::format("upstream \"{}\" is busy: the request waited {} s for its turn",
                      options_.name, options_.queue_timeout_s));
      co_return Fail(UpstreamFailure::kRefused, std::move(status));
    }
    in_time = co_await wakeup_.Wait(deadline);
  }
}

std::string Exchange::RequestText() const {
  const UpstreamUrl& url = core_->pool().url();
  std::string text = fmt::format(
      "POST {}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {}\r\nContent-Type: application/json\r\n"
      "Accept: {}\r\nAccept-Encoding: identity\r\nContent-Length: {}\r\n",
      url.base, encoded_.endpoint, url.Authority(), kUserAgent,
      encoded_.stream ? "text/event-stream" : "application/json", encoded_.body.size());
  if (!id_.empty()) text += fmt::format("X-Request-Id: {}\r\n", id_);
  if (!authorization_.empty()) text += fmt::format("Authorization: {}\r\n", authorization_);
  text += "\r\n";
  text += encoded_.body;
  return text;
}

Exchange::TimePoint Exchange::ReadDeadline() const {
  const TimePoint end = sent_ + Duration(options_.request_timeout_s);
  if (!encoded_.stream) return end;
  const TimePoint next = first_token_ == TimePoint()
                             ? sent_ + Duration(options_.first_token_timeout_s)
                             : last_event_ + Duration(options_.idle_timeout_s);
  return std::min(next, end);
}

Task<absl::Status> Exchange::Ask() {
  sent_ = steady_clock::now();
  outcome_.sent = true;
  const std::string text = RequestText();
  const HttpCall::Deadlines deadlines = {Duration(options_.connect_timeout_s), ReadDeadline()};
  absl::Status status = co_await call_.Send(text, deadlines);
  if (!status.ok()) co_return Fail(call_.failure(), std::move(status));
  if (call_.status() != 200) co_return co_await ReadError();
  const std::string encoding = call_.header(http::field::content_encoding);
  if (!encoding.empty() && !beast::iequals(encoding, "identity")) {
    co_return Broken(UpstreamFailure::kProtocol, "compressed its answer unasked");
  }
  const std::string type = call_.header(http::field::content_type);
  if (encoded_.stream && IsType(type, "text/event-stream")) co_return co_await ReadStream();
  // An error may come as JSON even so.
  if (IsType(type, "application/json")) co_return co_await ReadWhole();
  const std::string what = fmt::format("answered with {:.100}, not with {}",
                                       type.empty() ? "something of no type" : type,
                                       encoded_.stream ? "text/event-stream" : "JSON");
  co_return Broken(UpstreamFailure::kProtocol, what);
}

Task<absl::Status> Exchange::ReadError() {
  HttpFailure failure;
  failure.status = call_.status();
  failure.content_type = call_.header(http::field::content_type);
  const std::string retry_after = call_.header(http::field::retry_after);
  failure.retry_after_s = ParseRetryAfter(retry_after);
  const TimePoint deadline =
      std::min(ReadDeadline(), steady_clock::now() + std::chrono::seconds(5));
  while (!call_.done() && failure.body.size() <= kMaxErrorBytes) {
    // An error whose text does not come is an error all the same.
    const absl::Status status = co_await call_.Read(deadline, &failure.body);
    if (!status.ok()) {
      failure.body.clear();
      break;
    }
  }
  if (failure.body.size() > kMaxErrorBytes) failure.body.resize(kMaxErrorBytes);
  Redact(core_->key(), &failure.body);
  outcome_.retry_after_s = failure.retry_after_s;
  co_return Fail(HttpFailureKind(failure.status), HttpError(options_.name, failure, own_key_));
}

Task<absl::Status> Exchange::ReadWhole() {
  std::string body;
  while (!call_.done()) {
    absl::Status status = co_await call_.Read(ReadDeadline(), &body);
    if (!status.ok()) co_return Fail(call_.failure(), std::move(status));
    if (body.size() > options_.max_answer_bytes) {
      const std::string what =
          fmt::format("sent an answer of more than {} bytes", options_.max_answer_bytes);
      co_return Broken(UpstreamFailure::kProtocol, what);
    }
  }
  std::vector<GenerateEvent> events;
  Redact(core_->key(), &body);
  absl::Status status = answer_.ReadWhole(std::move(body), &events);
  if (!status.ok()) {
    co_return Fail(answer_.reported() ? UpstreamFailure::kServer : UpstreamFailure::kProtocol,
                   std::move(status));
  }
  if (encoded_.stream) {
    co_return Broken(UpstreamFailure::kProtocol, "answered at once, not with a stream");
  }
  if (!answer_.complete()) {
    co_return Broken(UpstreamFailure::kTruncated, "sent an answer without a finish_reason");
  }
  Push(&events);
  co_return absl::OkStatus();
}

absl::StatusOr<bool> Exchange::TakeData(std::string data) {
  if (data == "[DONE]") return true;
  std::vector<GenerateEvent> events;
  absl::Status status = answer_.ReadChunk(std::move(data), &events);
  if (!status.ok()) {
    return Fail(answer_.reported() ? UpstreamFailure::kServer : UpstreamFailure::kProtocol,
                std::move(status));
  }
  last_event_ = steady_clock::now();
  Push(&events);
  return false;
}

absl::Status Exchange::CheckComplete() const {
  if (answer_.complete()) return absl::OkStatus();
  return BadAnswer(options_.name, "ended its stream without a finish_reason");
}

Task<absl::Status> Exchange::ReadStream() {
  last_event_ = steady_clock::now();
  std::vector<std::string> datas;
  for (;;) {
    if (call_.done()) {
      const bool half = events_.partial();
      co_return Broken(UpstreamFailure::kTruncated, half ? "ended its stream within an event"
                                                         : "ended its stream without [DONE]");
    }
    std::string bytes;
    absl::Status status = co_await call_.Read(ReadDeadline(), &bytes);
    if (!status.ok()) co_return Fail(call_.failure(), std::move(status));
    datas.clear();
    const absl::Status fed = events_.Feed(bytes, &datas);
    for (std::string& data : datas) {
      Redact(core_->key(), &data);
      absl::StatusOr<bool> done = TakeData(std::move(data));
      if (!done.ok()) co_return std::move(done).status();
      if (*done) co_return Fail(UpstreamFailure::kTruncated, CheckComplete());
    }
    if (!fed.ok()) {
      const std::string what(fed.message());
      co_return Broken(UpstreamFailure::kProtocol, "sent too much: " + what);
    }
    co_await AwaitRoom();
  }
}

void Exchange::Push(std::vector<GenerateEvent>* events) {
  for (GenerateEvent& event : *events) {
    if (event.unnamed_tokens > 0 && first_token_ == TimePoint()) {
      first_token_ = steady_clock::now();
    }
    stream_->Push(std::move(event));
  }
}

// The client reads slowly: what it does not read is not read from the upstream.
Task<void> Exchange::AwaitRoom() {
  if (!stream_->full()) co_return;
  while (stream_->full() && Interruption().ok()) co_await wakeup_.Wait(kNever);
  last_event_ = steady_clock::now();
}

Task<void> Exchange::ReadRest() {
  std::string rest;
  const TimePoint deadline = steady_clock::now() + kRestTime;
  while (!call_.done() && rest.size() < kMaxErrorBytes) {
    const absl::Status status = co_await call_.Read(deadline, &rest);
    if (!status.ok()) co_return;
  }
}

}  // namespace hostler
