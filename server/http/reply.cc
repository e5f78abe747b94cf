#include "server/http/reply.h"

#include "server/openai/answer.h"
#include "server/status_codes.h"

namespace hostler {

Reply ErrorReply(const absl::Status& status) {
  Reply reply;
  reply.status = MapStatus(status.code()).http;
  reply.body = ErrorBody(status);
  // Load passes quickly: queues move within a step.
  if (reply.status == 429 || reply.status == 503) reply.headers.emplace_back("Retry-After", "1");
  return reply;
}

Reply ErrorReply(int http_status, const std::string& message) {
  Reply reply;
  reply.status = http_status;
  reply.body = ErrorBody(absl::InvalidArgumentError(message));
  return reply;
}

}  // namespace hostler
