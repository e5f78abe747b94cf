// hostler top: a running server's memory and expert cache, as a terminal view.

#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <clocale>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "engine/base/status.h"
#include "fmt/chrono.h"
#include "fmt/format.h"
#include "server/bench/load_client.h"
#include "server/commands/model_commands.h"
#include "server/commands/terminal.h"
#include "server/commands/top_view.h"

namespace hostler {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr int kTimeout_s = 3;
constexpr int kUnlimited = 1 << 20;  // rows of what is no terminal

struct TopFlags {
  std::string url = "http://127.0.0.1:8000";
  bool once = false;
  double interval_s = 1;
};

struct Answer {
  json caches;
  Clock::time_point at;
};

absl::StatusOr<Answer> Ask(const ServerAddress& server) {
  HOSTLER_ASSIGN_OR_RETURN(const HttpAnswer answer, FetchFrom(server, "/admin/cache", kTimeout_s));
  const Clock::time_point now = Clock::now();
  if (answer.status == 200) {
    HOSTLER_ASSIGN_OR_RETURN(json caches, ParseCacheAnswer(answer.body));
    return Answer{std::move(caches), now};
  }
  const json body = json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  const json message = body.is_object() && body.contains("error") && body["error"].is_object()
                           ? body["error"].value("message", json())
                           : json();
  return absl::FailedPreconditionError(
      fmt::format("/admin/cache answers HTTP {}{}", answer.status,
                  message.is_string() ? ": " + Printable(message.get<std::string>()) : ""));
}

struct Size {
  int columns = 80;
  int rows = kUnlimited;
};

Size TerminalSize() {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return {};
  // Some terminals do not tell their rows.
  return {size.ws_col, size.ws_row == 0 ? kUnlimited : size.ws_row};
}

bool SpeaksUtf8() { return std::string_view(nl_langinfo(CODESET)) == "UTF-8"; }

// The terminal while frames are drawn over each other: the other screen, no
// cursor, keys neither shown nor waited for. Restored by Leave().
class Screen {
 public:
  Screen() { Enter(); }
  ~Screen() { Leave(); }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  void Enter() {
    if (isatty(STDIN_FILENO) != 0 && tcgetattr(STDIN_FILENO, &before_) == 0) {
      termios quiet = before_;
      quiet.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      changed_ = tcsetattr(STDIN_FILENO, TCSANOW, &quiet) == 0;
    }
    Write("\033[?1049h\033[?25l\033[2J");
  }
  void Leave() {
    Write("\033[?25h\033[?1049l");
    if (std::exchange(changed_, false)) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }

  // As many of the text's lines as there are rows.
  void Draw(const std::string& text, int rows) {
    std::string out = "\033[H";
    std::istringstream lines(text);
    int row = 0;
    for (std::string line; row < rows && std::getline(lines, line); ++row) {
      // Cleared before: behind a line that fills the row its last column would go.
      out += (row > 0 ? "\r\n\033[K" : "\033[K") + line;
    }
    Write(out + (row < rows ? "\r\n\033[J" : ""));
  }

 private:
  static void Write(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  termios before_ = {};
  bool changed_ = false;
};

// What ends the wait for the next frame.
enum class Event { kTime, kResized, kSuspend, kQuit };

// Signals and keys, as events. One at a time.
class Events {
 public:
  Events() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP}) {
      sigaddset(&signals, number);
    }
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
    signals_ = signalfd(-1, &signals, SFD_CLOEXEC);
  }
  ~Events() {
    close(signals_);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  Event Wait(Clock::time_point until) {
    for (;;) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      pollfd waits[] = {{signals_, POLLIN, 0}, {keys_ ? STDIN_FILENO : -1, POLLIN, 0}};
      if (poll(waits, 2, static_cast<int>(std::max<int64_t>(left, 0))) <= 0) return Event::kTime;
      if (waits[0].revents != 0) return TakeSignal();
      char key = 0;
      if (read(STDIN_FILENO, &key, 1) != 1) keys_ = false;  // stdin has ended
      if (key == 'q') return Event::kQuit;
    }
  }

 private:
  Event TakeSignal() {
    signalfd_siginfo info = {};
    if (read(signals_, &info, sizeof(info)) != sizeof(info)) return Event::kQuit;
    if (info.ssi_signo == SIGWINCH) return Event::kResized;
    return info.ssi_signo == SIGTSTP ? Event::kSuspend : Event::kQuit;
  }

  sigset_t before_ = {};
  int signals_ = -1;
  bool keys_ = isatty(STDIN_FILENO) != 0;
};

// A line of ASCII, no longer than the terminal is wide.
std::string CutLine(const std::string& text, int columns) {
  return Printable(text).substr(0, columns) + "\n";
}

std::string Heading(const TopFlags& flags, int columns) {
  return CutLine(
      fmt::format("hostler top   {}   {:%H:%M:%S}", flags.url, fmt::localtime(std::time(nullptr))),
      columns);
}

std::string Frame(const TopFlags& flags, const std::optional<Answer>& before, const Answer& now,
                  const FrameOptions& options) {
  const std::chrono::duration<double> seconds =
      before.has_value() ? now.at - before->at : Clock::duration();
  return Heading(flags, options.width) + RenderFrame(before.has_value() ? before->caches : json(),
                                                     now.caches, seconds.count(), options);
}

int ShowOnce(const TopFlags& flags, const ServerAddress& server, const Answer& before) {
  std::this_thread::sleep_for(std::chrono::duration<double>(flags.interval_s));
  const absl::StatusOr<Answer> now = Ask(server);
  if (!now.ok()) return FailRunning(now.status());
  fmt::print("{}",
             Frame(flags, before, *now, {.width = TerminalSize().columns, .utf8 = SpeaksUtf8()}));
  return FinishStdout();
}

// Frames until the user has seen enough. A server that goes away is waited for.
int Watch(const TopFlags& flags, const ServerAddress& server, Answer answer) {
  Events events;
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  std::unique_ptr<Screen> screen = terminal ? std::make_unique<Screen>() : nullptr;
  std::optional<Answer> before;
  std::string trouble;
  Clock::time_point next = Clock::now();
  for (;;) {
    const Size size = TerminalSize();
    const FrameOptions options{size.columns, terminal, SpeaksUtf8()};
    const std::string frame =
        trouble.empty()
            ? Frame(flags, before, answer, options)
            : Heading(flags, size.columns) + CutLine(trouble + "; trying again", size.columns);
    if (screen != nullptr) {
      screen->Draw(frame, size.rows);
    } else {
      fmt::print("{}\n", frame);
      if (std::fflush(stdout) != 0) return FinishStdout();
    }
    next = std::max(next, Clock::now() - std::chrono::seconds(1)) +
           std::chrono::round<Clock::duration>(std::chrono::duration<double>(flags.interval_s));
    Event event = events.Wait(next);
    while (event == Event::kSuspend || event == Event::kResized) {
      if (event == Event::kSuspend && screen != nullptr) {
        screen->Leave();
        raise(SIGSTOP);
        screen->Enter();
      }
      if (screen != nullptr) screen->Draw(frame, TerminalSize().rows);
      event = events.Wait(next);
    }
    if (event == Event::kQuit) return kExitOk;
    absl::StatusOr<Answer> now = Ask(server);
    trouble = now.ok() ? "" : std::string(now.status().message());
    if (!now.ok()) continue;
    before = std::move(answer);
    answer = *std::move(now);
  }
}

int Top(const TopFlags& flags) {
  const absl::StatusOr<ServerAddress> server = ParseServerUrl(flags.url);
  if (!server.ok()) return Fail(server.status());
  std::setlocale(LC_CTYPE, "");
  absl::StatusOr<Answer> answer = Ask(*server);
  if (absl::IsUnavailable(answer.status())) {
    return FailRunning(absl::UnavailableError(
        fmt::format("{}; is hostler serve running there? --url names another",
                    std::string(answer.status().message()))));
  }
  if (!answer.ok()) return FailRunning(answer.status());
  return flags.once ? ShowOnce(flags, *server, *answer) : Watch(flags, *server, *std::move(answer));
}

}  // namespace

void AddTopCommand(CLI::App* app, RunCommand* run) {
  auto flags = std::make_shared<TopFlags>();
  CLI::App* command = app->add_subcommand(
      "top",
      "Watch a running server: tokens/s, expert hits, reads, stalls, and how memory is divided.\n"
      "q or ctrl-C ends it. The server's setting admin says who may look");
  command->add_option("--url", flags->url, "The server: http://HOST:PORT")->capture_default_str();
  command->add_flag("--once", flags->once,
                    "Print one frame of what goes on for an interval, as plain text, and exit");
  command->add_option("--interval", flags->interval_s, "Seconds between frames")
      ->check(CLI::Range(0.1, 3600.0).description(""))
      ->capture_default_str();
  command->callback([flags, run] { *run = [flags] { return Top(*flags); }; });
}

}  // namespace hostler
