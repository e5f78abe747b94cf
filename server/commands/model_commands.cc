#include "server/commands/model_commands.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "fmt/format.h"
#include "server/commands/terminal.h"

namespace hostler {

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const ModelFlags& flags) {
  EngineOptions options = flags.options;
  if (!options.on_warning) options.on_warning = PrintWarning;
  ProgressLine line;
  if (!line.visible()) return Engine::Load(flags.path, options);
  std::mutex mutex;
  std::condition_variable loaded;
  bool done = false;
  std::thread ticker([&] {
    std::unique_lock<std::mutex> lock(mutex);
    for (int s = 0; !done; ++s) {
      line.Show(fmt::format("loading {} … {} s", flags.path, s));
      loaded.wait_for(lock, std::chrono::seconds(1), [&] { return done; });
    }
  });
  auto engine = Engine::Load(flags.path, options);
  {
    std::lock_guard<std::mutex> lock(mutex);
    done = true;
  }
  loaded.notify_one();
  ticker.join();
  return engine;
}

}  // namespace hostler
