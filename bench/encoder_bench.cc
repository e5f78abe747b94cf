// Time of the sentence encoder for prompts of a JSONL file, with some clients at once,
// each with its next prompt (or `--batch` of them in one call) as soon as it has the last
// one's embedding. "CPU ms" is the processor time of a prompt, which other work on the
// machine disturbs least.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "engine/embed/encoder.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::string> ReadPrompts(const std::string& path, size_t most) {
  std::vector<std::string> prompts;
  std::ifstream file(path);
  for (std::string line; prompts.size() < most && std::getline(file, line);) {
    prompts.push_back(nlohmann::json::parse(line)["prompt"]);
  }
  return prompts;
}

// Of this process, all threads.
double CpuMs() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](const timeval& t) { return 1e3 * t.tv_sec + 1e-3 * t.tv_usec; };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

double Quantile(std::vector<double>& times, double q) {
  if (times.empty()) return 0;
  std::sort(times.begin(), times.end());
  return times[static_cast<size_t>(q * static_cast<double>(times.size() - 1))];
}

absl::Status Measure(Encoder& encoder, std::span<const std::string> prompts, int clients,
                     size_t batch) {
  std::vector<double> ms(prompts.size());
  std::atomic<size_t> next = 0;
  std::vector<absl::Status> failures(static_cast<size_t>(clients));
  const double cpu_before = CpuMs();
  const auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int client = 0; client < clients; ++client) {
    threads.emplace_back([&, client] {
      std::vector<float> embeddings(batch * static_cast<size_t>(encoder.dimensions()));
      for (size_t i = next.fetch_add(batch); i < prompts.size(); i = next.fetch_add(batch)) {
        const auto begin = Clock::now();
        const size_t end = std::min(i + batch, prompts.size());
        const std::vector<std::string_view> texts(prompts.begin() + i, prompts.begin() + end);
        const std::span out(embeddings.data(), texts.size() * embeddings.size() / batch);
        failures[static_cast<size_t>(client)].Update(encoder.Encode(texts, out));
        const double took = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
        std::fill(ms.begin() + i, ms.begin() + end, took);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> took = Clock::now() - start;
  const double count = static_cast<double>(prompts.size());
  for (const absl::Status& failure : failures) {
    if (!failure.ok()) return failure;
  }
  fmt::print("{:>7} {:>7} {:>10.2f} {:>8.2f} {:>8.2f} {:>10.0f} {:>7.2f}\n", clients,
             prompts.size(), Quantile(ms, 0.5), Quantile(ms, 0.9), Quantile(ms, 0.99),
             count / took.count(), (CpuMs() - cpu_before) / count);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Time of the sentence encoder");
  std::string model, file;
  EncoderOptions options;
  size_t most = 500;
  size_t max_bytes = 0;
  std::vector<int> clients = {1, 16};
  size_t batch = 1;
  app.add_option("--model", model, "directory of the encoder")->required();
  app.add_option("--prompts", file, "JSONL with \"prompt\"")->required();
  app.add_option("--most", most, "prompts");
  app.add_option("--max-bytes", max_bytes, "leave out longer prompts");
  app.add_option("--threads", options.threads);
  app.add_option("--max-tokens", options.max_tokens);
  app.add_flag("--exact", options.exact);
  app.add_option("--clients", clients)->delimiter(',');
  app.add_option("--batch", batch, "prompts of one call")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);

  const auto encoder = Encoder::Load(model, options);
  if (!encoder.ok()) {
    fmt::print(stderr, "{}\n", encoder.status().ToString());
    return 1;
  }
  std::vector<std::string> prompts = ReadPrompts(file, most);
  if (max_bytes > 0) {
    std::erase_if(prompts, [&](const std::string& prompt) { return prompt.size() > max_bytes; });
  }
  fmt::print("clients prompts  median ms      p90      p99  prompts/s  CPU ms\n");
  for (const int at_once : clients) {
    const absl::Status status = Measure(**encoder, prompts, at_once, batch);
    if (status.ok()) continue;
    fmt::print(stderr, "{}\n", status.ToString());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) { return hostler::Main(argc, argv); }
