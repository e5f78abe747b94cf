// The names of Boost.Beast's HTTP messages, apart from any I/O.
#pragma once

#include "boost/beast/core/string.hpp"
#include "boost/beast/http/message.hpp"
#include "boost/beast/http/string_body.hpp"

namespace hostler {

namespace beast = boost::beast;
namespace http = boost::beast::http;

}  // namespace hostler
