#include "bench/serving_clients.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "fmt/format.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "proto/hostler.grpc.pb.h"
#include "server/bench/engine_bench.h"
#include "server/bench/load_client.h"

namespace hostler {
namespace {

constexpr int kPromptTokens = 16, kVocab = 4096;

// An HTTP connection that has asked once and is kept; -1: it failed.
int OpenIdle(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  constexpr std::string_view kRequest = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
  char answer[4096];
  const bool answered = fd >= 0 &&
                        connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
                        write(fd, kRequest.data(), kRequest.size()) == ssize_t(kRequest.size()) &&
                        read(fd, answer, sizeof answer) > 0;
  return answered ? fd : -1;
}

bool LoadHttp(const ClientFlags& flags, int port, int rounds) {
  LoadOptions options;
  options.model = "stub";
  options.concurrency = flags.clients;
  options.ids = OrdinaryIds(kVocab);
  const LoadPlan plan = RandomPlan(flags.clients * rounds, {kPromptTokens, kPromptTokens},
                                   {flags.tokens, flags.tokens}, 0, options.seed);
  const LoadSummary summary =
      Summarize(RunLoad({"127.0.0.1", std::to_string(port), ""}, plan, options, nullptr), {});
  if (rounds > 1) {
    fmt::print(
        "  clients        {:.0f} tokens/s; to the first token p50 {:.1f} p99 {:.1f} ms; "
        "between tokens p50 {:.2f} p99 {:.2f} ms\n",
        summary.output_tokens_per_s, summary.ttft_ms.p50, summary.ttft_ms.p99, summary.itl_ms.p50,
        summary.itl_ms.p99);
  }
  return summary.completed == summary.requests && summary.short_answers == 0;
}

bool LoadGrpc(const ClientFlags& flags, int port, int rounds) {
  v1::GenerateRequest request;
  for (int i = 0; i < kPromptTokens; ++i) request.mutable_token_ids()->add_ids(300 + i);
  request.set_max_tokens(static_cast<uint32_t>(flags.tokens));
  request.set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  std::atomic<int> whole{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < flags.clients; ++i) {
    clients.emplace_back([&, i] {
      grpc::ChannelArguments own;  // else equal channels share a connection
      own.SetInt("hostler.client", i);
      const auto stub = v1::Hostler::NewStub(grpc::CreateCustomChannel(
          fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials(), own));
      for (int round = 0; round < rounds; ++round) {
        grpc::ClientContext context;
        const auto reader = stub->Generate(&context, request);
        v1::GenerateResponse response;
        int tokens = 0;
        while (reader->Read(&response)) tokens += response.delta().token_ids_size();
        whole += reader->Finish().ok() && tokens == flags.tokens;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  return whole == flags.clients * rounds;
}

class Child {
 public:
  Child(const ClientFlags& flags, int from_parent, int to_parent)
      : flags_(flags), from_parent_(from_parent), to_parent_(to_parent) {}

  int Run() {
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    ServerPorts ports;
    if (!Told(&ports)) return 1;
    const auto load = [&](int rounds) {
      return flags_.grpc ? LoadGrpc(flags_, ports.grpc, rounds)
                         : LoadHttp(flags_, ports.http, rounds);
    };
    ServerPorts ignored;
    if (!Say(load(1)) || !Told(&ignored)) return 1;
    bool open = true;
    for (int i = 0; i < flags_.idle; ++i) open &= OpenIdle(ports.http) >= 0;
    if (!Say(open) || !Told(&ignored)) return 1;
    const bool loaded = load(flags_.rounds);
    std::fflush(stdout);
    return Say(loaded) && Told(&ignored) ? 0 : 1;
  }

 private:
  bool Told(ServerPorts* ports) {
    return read(from_parent_, ports, sizeof *ports) == sizeof *ports;
  }
  bool Say(bool good) { return write(to_parent_, &good, 1) == 1 && good; }

  const ClientFlags flags_;
  const int from_parent_, to_parent_;
};

}  // namespace

ClientProcess::ClientProcess(const ClientFlags& flags) {
  int down[2], up[2];
  if (pipe(down) != 0 || pipe(up) != 0) return;
  child_ = fork();
  if (child_ == 0) {
    close(down[1]);
    close(up[0]);
    _exit(Child(flags, down[0], up[1]).Run());
  }
  close(down[0]);
  close(up[1]);
  to_child_ = down[1];
  from_child_ = up[0];
}

ClientProcess::~ClientProcess() {
  close(to_child_);
  close(from_child_);
  if (child_ > 0) waitpid(child_, nullptr, 0);
}

void ClientProcess::Tell(const ServerPorts& ports) {
  // Wait() tells when nobody reads.
  [[maybe_unused]] const ssize_t written = write(to_child_, &ports, sizeof ports);
}

absl::Status ClientProcess::Wait() {
  bool good = false;
  if (read(from_child_, &good, 1) == 1 && good) return absl::OkStatus();
  return absl::UnavailableError("not all clients got what they asked for");
}

}  // namespace hostler
