// The daemon's own log lines (not those of requests): spdlog on stderr.
#pragma once

#include <string>

namespace hostler {

// "text": time level=info message; "json": one object a line.
// `level`: debug, info, warn, error or off. Call once, before other threads.
void StartLogging(const std::string& format, const std::string& level);

}  // namespace hostler
