// HttpServer: the OpenAI-compatible HTTP front end.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/http/admin_access.h"
#include "server/service.h"

namespace hostler {

struct HttpOptions {
  std::string host = "127.0.0.1";  // name or address to listen on
  int port = 8000;                 // 0: any free one
  AdminAccess admin = AdminAccess::kLocal;
  int io_threads = 2;
  int max_connections = 8192;  // more are closed at once
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 16 << 20;
  size_t max_bodies_bytes = 512 << 20;               // of all requests being read or parsed
  std::chrono::milliseconds header_timeout{10'000};  // from its first byte to its last
  std::chrono::milliseconds body_timeout{60'000};
  std::chrono::milliseconds idle_timeout{75'000};   // between requests
  std::chrono::milliseconds write_timeout{60'000};  // without the client reading anything
  std::chrono::milliseconds stop_grace{5'000};      // for answers under way when stopping
};

// Thread-safe. Serves from Start until Stop.
class HttpServer {
 public:
  using Options = HttpOptions;

  // Listens and serves on threads of its own. Raises the process's soft limit
  // of open files to what the connections need, as far as it may. `service`
  // must outlive the server. Errors: InvalidArgument for a host that cannot be
  // resolved; Unavailable when the port is taken.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options,
                                                           Service* service);
  ~HttpServer();  // Stop
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;

  // Closes idle connections, lets answers under way end within the grace time,
  // cuts the rest off, and joins the threads.
  void Stop();

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hostler
