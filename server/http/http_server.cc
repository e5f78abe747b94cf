#include "server/http/http_server.h"

#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "router/net/asio.h"
#include "server/http/connection.h"

namespace hostler {
namespace {

using boost::system::error_code;
using Acceptor = net::basic_socket_acceptor<tcp, IoExecutor>;

// Parse and tokenize, which takes long for long prompts. More than there are
// cores, so that short ones need not wait for those.
constexpr int kWorkers = 8;
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);
// Files that a process has open besides its connections.
constexpr rlim_t kOtherFiles = 256;

void RaiseFileLimit(int connections) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(rlim_t(connections) + kOtherFiles, limit.rlim_max);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

absl::StatusOr<tcp::endpoint> Resolve(net::io_context& io, const std::string& host, int port) {
  error_code ec;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive, ec);
  if (ec || found.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("cannot listen on host \"{}\": {}", host, ec.message()));
  }
  return found.begin()->endpoint();
}

absl::Status Listen(Acceptor* acceptor, const tcp::endpoint& endpoint) {
  error_code ec;
  acceptor->open(endpoint.protocol(), ec);
  if (!ec) acceptor->set_option(net::socket_base::reuse_address(true), ec);
  if (!ec) acceptor->bind(endpoint, ec);
  if (!ec) acceptor->listen(net::socket_base::max_listen_connections, ec);
  if (!ec) return absl::OkStatus();
  return absl::UnavailableError(fmt::format(
      "cannot listen on {}:{}: {}", endpoint.address().to_string(), endpoint.port(), ec.message()));
}

// The open connections.
class ConnectionSet {
 public:
  explicit ConnectionSet(Metrics* metrics) : metrics_(metrics) {}

  int size() const {
    std::lock_guard lock(mutex_);
    return int(open_.size());
  }

  // A place for a connection that is about to be made.
  int64_t Reserve() {
    std::lock_guard lock(mutex_);
    open_.try_emplace(++last_);
    Report();
    return last_;
  }
  void Set(int64_t key, std::weak_ptr<Connection> connection) {
    std::lock_guard lock(mutex_);
    open_[key] = std::move(connection);
  }
  void Remove(int64_t key) {
    std::lock_guard lock(mutex_);
    open_.erase(key);
    Report();
    changed_.notify_all();
  }

  void StopAll(bool at_once) {
    std::vector<std::shared_ptr<Connection>> connections;
    {
      std::lock_guard lock(mutex_);
      for (auto& [key, connection] : open_) connections.push_back(connection.lock());
    }
    for (auto& connection : connections) {
      if (connection != nullptr) connection->Stop(at_once);
    }
  }

  void WaitUntilEmpty(std::chrono::milliseconds at_most) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, at_most, [this] { return open_.empty(); });
  }

 private:
  void Report() { metrics_->SetHttpConnections(int(open_.size())); }

  Metrics* const metrics_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t last_ = 0;
  std::unordered_map<int64_t, std::weak_ptr<Connection>> open_;
};

// A thread that does I/O, with what it waits in. Runs from Start() until nothing
// is left to do and End() was called.
class IoThread {
 public:
  void Start() {
    thread_ = std::thread([this] { io_.run(); });
  }
  void End() { work_.reset(); }
  void Join() { thread_.join(); }

  net::io_context& io() { return io_; }
  ReadyList<Connection>* ready() { return &ready_; }

 private:
  net::io_context io_{1};
  net::executor_work_guard<IoExecutor> work_ = net::make_work_guard(io_);
  ReadyList<Connection> ready_{[this] { net::post(io_, [this] { ready_.Run(); }); }};
  std::thread thread_;
};

}  // namespace

struct HttpServer::Impl {
  explicit Impl(const Options& options, Service* service)
      : threads(std::max(1, options.io_threads)),
        context(options, service, &workers),
        connections(&service->metrics()),
        acceptor(threads.front().io().get_executor()) {}

  static Task<void> Accept(Impl* self) {
    net::steady_timer retry(self->acceptor.get_executor());
    while (!self->context.stopping) {
      error_code ec;
      IoThread& thread = self->threads[self->next_thread];
      auto socket = co_await self->acceptor.async_accept(thread.io().get_executor(),
                                                         net::redirect_error(kAwait, ec));
      if (ec == net::error::operation_aborted || self->context.stopping) break;
      if (ec) {
        // Out of files, most likely; some connection will end.
        retry.expires_after(kAcceptRetry);
        co_await retry.async_wait(net::redirect_error(kAwait, ec));
        continue;
      }
      if (self->connections.size() < self->context.options.max_connections) {
        self->next_thread = (self->next_thread + 1) % self->threads.size();
        self->Open(TcpStream(std::move(socket)), thread.ready());
      }
    }
  }

  void Open(TcpStream stream, ReadyList<Connection>* ready) {
    const int64_t key = connections.Reserve();
    auto connection = std::make_shared<Connection>(std::move(stream), &context, ready,
                                                   [this, key] { connections.Remove(key); });
    connections.Set(key, connection);
    connection->Start();
  }

  void Stop() {
    if (context.stopping.exchange(true)) return;
    net::post(acceptor.get_executor(), [this] {
      error_code ec;
      acceptor.close(ec);
    });
    connections.StopAll(/*at_once=*/false);
    connections.WaitUntilEmpty(context.options.stop_grace);
    connections.StopAll(/*at_once=*/true);
    for (IoThread& thread : threads) thread.End();
    for (IoThread& thread : threads) thread.Join();
    workers.join();
  }

  std::deque<IoThread> threads;
  size_t next_thread = 0;  // the next connection's
  net::thread_pool workers{kWorkers};
  ServerContext context;
  ConnectionSet connections;
  Acceptor acceptor;
  int port = 0;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { Stop(); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options,
                                                              Service* service) {
  RaiseFileLimit(options.max_connections);
  auto impl = std::make_unique<Impl>(options, service);
  absl::StatusOr<tcp::endpoint> endpoint =
      Resolve(impl->threads.front().io(), options.host, options.port);
  if (!endpoint.ok()) return endpoint.status();
  if (absl::Status status = Listen(&impl->acceptor, *endpoint); !status.ok()) return status;
  impl->port = impl->acceptor.local_endpoint().port();
  net::co_spawn(impl->acceptor.get_executor(), Impl::Accept(impl.get()), net::detached);
  for (IoThread& thread : impl->threads) thread.Start();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::port() const { return impl_->port; }

void HttpServer::Stop() { impl_->Stop(); }

}  // namespace hostler
