#include "server/bench/load_client.h"

#include <sys/resource.h>

#include <chrono>
#include <limits>
#include <memory>

#include "boost/asio/awaitable.hpp"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/detached.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "server/bench/completion_reader.h"

namespace hostler {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Endpoints = tcp::resolver::results_type;
using Parser = http::response_parser<http::string_body>;
using Request = http::request<http::string_body>;

auto NoThrow(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

std::string Where(const ServerAddress& address) {
  return fmt::format("http://{}:{}", address.host, address.port);
}

std::string Describe(const error_code& error) {
  return error == beast::error::timeout ? "timeout" : error.message();
}

Request MakeRequest(const ServerAddress& address, http::verb verb, const std::string& path,
                    std::string body) {
  Request request{verb, address.base_path + path, 11};
  request.set(http::field::host, address.host + ":" + address.port);
  request.set(http::field::user_agent, "hostler-bench");
  if (!body.empty()) {
    request.set(http::field::content_type, "application/json");
    request.body() = std::move(body);
  }
  request.prepare_payload();
  return request;
}

absl::StatusOr<Endpoints> Resolve(asio::io_context* io, const ServerAddress& address) {
  error_code error;
  Endpoints endpoints = tcp::resolver(*io).resolve(address.host, address.port, error);
  if (error) {
    return absl::UnavailableError(
        fmt::format("cannot resolve {}:{}: {}", address.host, address.port, error.message()));
  }
  return endpoints;
}

// A connection that is opened when needed and kept while the server keeps it.
struct Connection {
  std::unique_ptr<beast::tcp_stream> stream;
  beast::flat_buffer buffer;
};

awaitable<error_code> Connect(asio::io_context& io, const Endpoints& endpoints, int timeout_s,
                              Connection& connection) {
  error_code error;
  connection.buffer.clear();
  connection.stream = std::make_unique<beast::tcp_stream>(io);
  connection.stream->expires_after(std::chrono::seconds(timeout_s));
  co_await connection.stream->async_connect(endpoints, NoThrow(error));
  if (error) {
    connection.stream.reset();
    co_return error;
  }
  error_code ignored;
  connection.stream->socket().set_option(tcp::no_delay(true), ignored);
  co_return error;
}

awaitable<void> Get(asio::io_context& io, const Endpoints& endpoints, Request request,
                    int timeout_s, Parser& parser, error_code& error) {
  Connection connection;
  error = co_await Connect(io, endpoints, timeout_s, connection);
  if (error) co_return;
  co_await http::async_write(*connection.stream, request, NoThrow(error));
  if (error) co_return;
  co_await http::async_read(*connection.stream, connection.buffer, parser, NoThrow(error));
}

// The run's state; used by the one thread that runs `io_`.
class Load {
 public:
  Load(const ServerAddress& address, const LoadPlan& plan, const LoadOptions& options)
      : address_(address), plan_(plan), options_(options), outcomes_(plan.requests.size()) {}

  std::vector<Outcome> Run(const std::function<void(const LoadProgress&)>& progress);

 private:
  int total() const { return static_cast<int>(plan_.requests.size()); }
  double Now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  awaitable<void> RunClosedClient();
  awaitable<void> RunOpenLoop();
  awaitable<void> SendPooled(int i);
  awaitable<void> Send(Connection& connection, int i);
  // Header of the answer; `error` says why there is none.
  awaitable<void> Exchange(Connection& connection, const Request& request, Parser& parser,
                           error_code& error);
  awaitable<void> ReadAnswer(Connection& connection, Parser& parser, int i, error_code& error);
  awaitable<void> ReportProgress(const std::function<void(const LoadProgress&)>& progress);
  void FinishOne();

  const ServerAddress& address_;
  const LoadPlan& plan_;
  const LoadOptions& options_;
  std::vector<Outcome> outcomes_;
  asio::io_context io_{1};
  asio::steady_timer progress_timer_{io_};
  Endpoints endpoints_;
  Clock::time_point start_;
  std::vector<std::unique_ptr<Connection>> idle_;
  int next_ = 0;  // of a closed loop
  LoadProgress progress_;
};

std::vector<Outcome> Load::Run(const std::function<void(const LoadProgress&)>& progress) {
  progress_.total = total();
  absl::StatusOr<Endpoints> endpoints = Resolve(&io_, address_);
  start_ = Clock::now();
  if (!endpoints.ok()) {
    for (Outcome& o : outcomes_) o.failure = std::string(endpoints.status().message());
    return std::move(outcomes_);
  }
  endpoints_ = *std::move(endpoints);
  if (options_.concurrency > 0) {
    for (int i = 0; i < std::min(options_.concurrency, total()); ++i) {
      asio::co_spawn(io_, RunClosedClient(), asio::detached);
    }
  } else {
    asio::co_spawn(io_, RunOpenLoop(), asio::detached);
  }
  if (progress) asio::co_spawn(io_, ReportProgress(progress), asio::detached);
  io_.run();
  return std::move(outcomes_);
}

awaitable<void> Load::RunClosedClient() {
  Connection connection;
  while (next_ < total()) co_await Send(connection, next_++);
}

awaitable<void> Load::RunOpenLoop() {
  asio::steady_timer timer(io_);
  for (int i = 0; i < total(); ++i) {
    const double at_s = plan_.requests[i].at_s / options_.speed;
    timer.expires_at(
        start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(at_s)));
    co_await timer.async_wait(asio::use_awaitable);
    asio::co_spawn(io_, SendPooled(i), asio::detached);
  }
}

awaitable<void> Load::SendPooled(int i) {
  std::unique_ptr<Connection> connection;
  if (idle_.empty()) {
    connection = std::make_unique<Connection>();
  } else {
    connection = std::move(idle_.back());
    idle_.pop_back();
  }
  co_await Send(*connection, i);
  if (connection->stream != nullptr) idle_.push_back(std::move(connection));
}

awaitable<void> Load::Send(Connection& connection, int i) {
  const PlannedRequest& planned = plan_.requests[i];
  Outcome& outcome = outcomes_[i];
  outcome.prompt_tokens = planned.prompt_tokens;
  const Request request = MakeRequest(address_, http::verb::post, "/v1/completions",
                                      CompletionBody(planned, plan_.block_tokens, options_));
  ++progress_.sent;
  outcome.sent_s = Now();
  outcome.due_s = options_.concurrency > 0 ? outcome.sent_s : planned.at_s / options_.speed;

  error_code error;
  auto parser = std::make_unique<Parser>();
  const bool reused = connection.stream != nullptr;
  co_await Exchange(connection, request, *parser, error);
  if (error && reused && error != beast::error::timeout) {
    // The server may have closed an idle connection just as it was used.
    connection.stream.reset();
    parser = std::make_unique<Parser>();
    co_await Exchange(connection, request, *parser, error);
  }
  if (!error) co_await ReadAnswer(connection, *parser, i, error);
  if (error) {
    outcome.ok = false;
    outcome.failure = (connection.stream == nullptr ? "connect: " : "") + Describe(error);
  }
  if (!outcome.ok) {
    ++progress_.failed;
    outcome.end_s = Now();
  }
  if (error || !parser->is_done() || !parser->get().keep_alive()) connection.stream.reset();
  FinishOne();
}

awaitable<void> Load::Exchange(Connection& connection, const Request& request, Parser& parser,
                               error_code& error) {
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  if (connection.stream == nullptr) {
    error = co_await Connect(io_, endpoints_, options_.timeout_s, connection);
    if (error) co_return;
  }
  connection.stream->expires_after(std::chrono::seconds(options_.timeout_s));
  co_await http::async_write(*connection.stream, request, NoThrow(error));
  if (error) co_return;
  co_await http::async_read_header(*connection.stream, connection.buffer, parser, NoThrow(error));
}

awaitable<void> Load::ReadAnswer(Connection& connection, Parser& parser, int i, error_code& error) {
  Outcome& outcome = outcomes_[i];
  if (parser.get().result() != http::status::ok) {
    co_await http::async_read(*connection.stream, connection.buffer, parser, NoThrow(error));
    outcome.failure = fmt::format("http {}", parser.get().result_int());
    outcome.detail = parser.get().body().substr(0, 400);
    error = {};
    co_return;
  }
  CompletionReader reader(&outcome);
  std::string& body = parser.get().body();
  int events = 0;
  for (;;) {
    reader.Add(body, Now());
    body.clear();
    progress_.output_events += reader.token_events() - events;
    events = reader.token_events();
    if (parser.is_done()) break;
    co_await http::async_read_some(*connection.stream, connection.buffer, parser, NoThrow(error));
    if (error) co_return;
  }
  reader.Finish(plan_.requests[i].output_tokens, Now());
}

awaitable<void> Load::ReportProgress(const std::function<void(const LoadProgress&)>& progress) {
  while (progress_.done < total()) {
    error_code error;
    progress_timer_.expires_after(std::chrono::seconds(1));
    co_await progress_timer_.async_wait(NoThrow(error));
    progress_.elapsed_s = Now();
    progress(progress_);
  }
}

void Load::FinishOne() {
  if (++progress_.done == total()) progress_timer_.cancel();
}

// A connection is a file descriptor; the usual soft limit of 1024 is below
// what an overloaded server keeps waiting.
void RaiseFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::optional<int> FirstInt(const nlohmann::json& object, std::initializer_list<const char*> keys) {
  if (!object.is_object()) return std::nullopt;
  for (const char* key : keys) {
    auto it = object.find(key);
    if (it != object.end() && it->is_number_integer() && it->get<int64_t>() > 0 &&
        it->get<int64_t>() <= INT32_MAX) {
      return it->get<int>();
    }
  }
  return std::nullopt;
}

// vLLM tells max_model_len; llama.cpp puts n_vocab and n_ctx_train in "meta".
ServerInfo InfoOf(const nlohmann::json& model) {
  ServerInfo info;
  info.model = model.value("id", "");
  const nlohmann::json meta = model.contains("meta") ? model["meta"] : nlohmann::json();
  info.vocab = FirstInt(model, {"vocab_size", "n_vocab"});
  if (!info.vocab) info.vocab = FirstInt(meta, {"n_vocab", "vocab_size"});
  info.context = FirstInt(model, {"max_model_len", "context_length"});
  if (!info.context) info.context = FirstInt(meta, {"n_ctx", "n_ctx_train"});
  return info;
}

absl::StatusOr<ServerInfo> PickModel(const std::string& body, const std::string& wanted) {
  const auto json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  std::vector<nlohmann::json> models;
  if (json.is_object() && json.contains("data") && json["data"].is_array()) {
    for (const auto& model : json["data"]) {
      if (model.is_object() && model.contains("id") && model["id"].is_string()) {
        models.push_back(model);
      }
    }
  }
  if (models.empty()) {
    return absl::FailedPreconditionError("its /v1/models lists no models");
  }
  if (wanted.empty()) return InfoOf(models.front());
  std::string names;
  for (const auto& model : models) {
    if (model["id"] == wanted) return InfoOf(model);
    names += (names.empty() ? "" : ", ") + model["id"].get<std::string>();
  }
  return absl::NotFoundError(fmt::format("it has no model '{}', only {}", wanted, names));
}

}  // namespace

absl::StatusOr<ServerAddress> ParseServerUrl(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  if (!url.starts_with(kScheme)) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is no http:// address (https is not supported)", url));
  }
  ServerAddress address;
  const std::string rest = url.substr(kScheme.size());
  const std::string authority = rest.substr(0, rest.find('/'));
  address.base_path = rest.substr(authority.size());
  while (address.base_path.ends_with('/')) address.base_path.pop_back();
  if (address.base_path.ends_with("/v1")) address.base_path.resize(address.base_path.size() - 3);
  const size_t bracket = authority.find(']');  // of an IPv6 address
  const size_t colon = authority.find(':', bracket == std::string::npos ? 0 : bracket);
  address.host = authority.substr(0, colon);
  if (bracket != std::string::npos && authority.starts_with('[')) {
    address.host = authority.substr(1, bracket - 1);
  }
  address.port = colon == std::string::npos ? "80" : authority.substr(colon + 1);
  const bool digits = address.port.find_first_not_of("0123456789") == std::string::npos;
  if (address.host.empty() || address.port.empty() || !digits || address.port.size() > 5 ||
      std::stoi(address.port) > 65535) {
    return absl::InvalidArgumentError(fmt::format("'{}' is not http://HOST[:PORT]", url));
  }
  return address;
}

absl::StatusOr<HttpAnswer> FetchFrom(const ServerAddress& address, const std::string& path,
                                     int timeout_s, const std::string& body) {
  asio::io_context io(1);
  absl::StatusOr<Endpoints> endpoints = Resolve(&io, address);
  if (!endpoints.ok()) return endpoints.status();
  Parser parser;
  error_code error;
  const http::verb verb = body.empty() ? http::verb::get : http::verb::post;
  asio::co_spawn(
      io, Get(io, *endpoints, MakeRequest(address, verb, path, body), timeout_s, parser, error),
      asio::detached);
  io.run();
  if (error) {
    return absl::UnavailableError(
        fmt::format("no answer from {}: {}", Where(address), Describe(error)));
  }
  return HttpAnswer{static_cast<int>(parser.get().result_int()), std::move(parser.get().body())};
}

absl::StatusOr<ServerInfo> AskServer(const ServerAddress& address, const std::string& model,
                                     int timeout_s) {
  const absl::StatusOr<HttpAnswer> answer = FetchFrom(address, "/v1/models", timeout_s);
  if (!answer.ok()) return answer.status();
  const std::string where = Where(address);
  if (answer->status != 200) {
    return absl::FailedPreconditionError(
        fmt::format("{}{}/v1/models answers HTTP {}", where, address.base_path, answer->status));
  }
  absl::StatusOr<ServerInfo> info = PickModel(answer->body, model);
  if (info.ok()) return info;
  return absl::Status(info.status().code(),
                      fmt::format("{}: {}", where, std::string(info.status().message())));
}

std::string CompletionBody(const PlannedRequest& request, int block_tokens,
                           const LoadOptions& options) {
  const nlohmann::ordered_json body = {
      {"model", options.model},
      {"prompt", PromptTokens(request, block_tokens, options.ids, options.seed)},
      {"max_tokens", request.output_tokens},
      {"min_tokens", request.output_tokens},
      {"ignore_eos", true},
      {"temperature", 0},
      {"seed", options.seed},
      {"stream", true},
      {"stream_options", {{"include_usage", true}}}};
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::vector<Outcome> RunLoad(const ServerAddress& address, const LoadPlan& plan,
                             const LoadOptions& options,
                             const std::function<void(const LoadProgress&)>& progress) {
  RaiseFileLimit();
  return Load(address, plan, options).Run(progress);
}

}  // namespace hostler
