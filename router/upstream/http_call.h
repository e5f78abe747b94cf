// HttpCall: one HTTP request to an upstream, and its response.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "boost/beast/http/parser.hpp"
#include "router/upstream/link_pool.h"
#include "router/upstream_stats.h"

namespace hostler {

// A body that is appended to a string as it comes, whatever length was announced.
struct AppendBody {
  using value_type = std::string;
  class reader {
   public:
    template <bool is_request, class Fields>
    reader(http::header<is_request, Fields>&, value_type& body) : body_(body) {}
    template <class Length>
    void init(const Length&, boost::system::error_code& ec) {
      ec = {};
    }
    template <class Buffers>
    size_t put(const Buffers& buffers, boost::system::error_code& ec) {
      ec = {};
      size_t bytes = 0;
      for (const net::const_buffer buffer : beast::buffers_range_ref(buffers)) {
        body_.append(static_cast<const char*>(buffer.data()), buffer.size());
        bytes += buffer.size();
      }
      return bytes;
    }
    void finish(boost::system::error_code& ec) { ec = {}; }

   private:
    value_type& body_;
  };
};

// Used by the pool's thread. `pool` outlives it. A connection whose response was
// read to its end goes back to the pool with the call.
class HttpCall {
 public:
  using TimePoint = Link::TimePoint;

  HttpCall(LinkPool* pool, std::string upstream);
  ~HttpCall();
  HttpCall(const HttpCall&) = delete;
  HttpCall& operator=(const HttpCall&) = delete;

  struct Deadlines {
    std::chrono::steady_clock::duration connect;  // for each attempt
    TimePoint response;                           // until the response's head is there
  };
  // Sends `request`, head and body, and reads the response's head. A connection
  // that was kept and turns out to be closed is replaced, once. Errors:
  // Unavailable, DeadlineExceeded, Cancelled after Close(); failure() says more.
  Task<absl::Status> Send(const std::string& request, Deadlines deadlines);

  // Appends more of the body; at least a byte unless done(). Errors: as above;
  // Unavailable with kTruncated when the connection ends before the body does.
  Task<absl::Status> Read(TimePoint deadline, std::string* to);
  // The body was read to its end.
  bool done() const {
    return parser_ != nullptr && parser_->is_done() && parser_->get().body().empty();
  }

  int status() const { return int(parser_->get().result_int()); }
  std::string header(http::field name) const { return std::string(parser_->get()[name]); }

  // Ends what runs, and whatever is called after.
  void Close();

  // Of the last error.
  UpstreamFailure failure() const { return failure_; }
  bool timed_out() const { return timed_out_; }
  int connections() const { return connections_; }  // opened
  int retries() const { return retries_; }

 private:
  using Parser = http::response_parser<AppendBody>;

  Task<absl::Status> Connect(Deadlines deadlines);
  Task<absl::Status> ReadHead(TimePoint deadline);
  // Parses what is in the buffer, reading more when that is not enough.
  Task<absl::Status> Advance(TimePoint deadline);
  absl::Status Parse();
  absl::Status ParseEnd();
  absl::Status Fail(UpstreamFailure failure, const std::string& what);
  absl::Status Fail(UpstreamFailure failure, boost::system::error_code ec, const char* doing);

  LinkPool* const pool_;
  const std::string upstream_;
  std::unique_ptr<Link> link_;
  std::unique_ptr<Parser> parser_;
  bool closed_ = false;
  bool heard_ = false;  // a byte of the response came
  bool timed_out_ = false;
  int connections_ = 0, retries_ = 0;
  UpstreamFailure failure_ = UpstreamFailure::kConnect;
};

}  // namespace hostler
