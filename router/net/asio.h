// The few names of Boost.Asio and Beast that the server is written in. Every
// connection belongs to one of the threads that do I/O, each of which has an
// io_context of its own, so that its code needs no locks.
#pragma once

// Boost 1.74's awaitable.hpp uses std::exchange without including it.
#include <utility>

#include "boost/asio.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "router/net/beast.h"

namespace hostler {

namespace net = boost::asio;
using tcp = boost::asio::ip::tcp;

using IoExecutor = net::io_context::executor_type;
using TcpStream = beast::basic_stream<tcp, IoExecutor>;
template <typename T>
using Task = net::awaitable<T, IoExecutor>;
inline constexpr net::use_awaitable_t<IoExecutor> kAwait;

}  // namespace hostler
