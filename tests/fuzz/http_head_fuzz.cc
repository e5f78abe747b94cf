// The head of an HTTP request, as Beast hands it on.
#include <cstddef>
#include <cstdint>
#include <string>

#include "boost/asio/buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "server/http/request_head.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using hostler::http::string_body;
  hostler::http::request_parser<string_body> parser;
  boost::system::error_code error;
  parser.eager(true);
  parser.put(boost::asio::buffer(data, size), error);
  if (error || !parser.is_header_done()) return 0;
  const hostler::HttpRequest head = hostler::ReadHead(parser.get());
  (void)hostler::WantsContinue(parser.get());
  std::string out;
  hostler::AppendHeader("x-request-id", head.request_id, &out);
  hostler::AppendHeader("path", head.path, &out);
  if (out.find('\n') != out.find("\r\n") + 1) __builtin_trap();
  return 0;
}
