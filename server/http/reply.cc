#include "server/http/reply.h"

#include "engine/base/wire_error.h"
#include "server/openai/answer.h"
#include "server/status_codes.h"

namespace hostler {

Reply ErrorReply(const absl::Status& status) {
  Reply reply;
  reply.status = MapStatus(status.code()).http;
  reply.body = ErrorBody(status);
  // Load passes quickly: queues move within a step.
  int retry_after_s = reply.status == 429 || reply.status == 503 ? 1 : 0;
  if (const std::optional<WireError> wire = FindWireError(status)) {
    if (wire->http_status != 0) reply.status = wire->http_status;
    if (wire->retry_after_s.has_value()) retry_after_s = *wire->retry_after_s;
  }
  if (retry_after_s > 0) reply.headers.emplace_back("Retry-After", std::to_string(retry_after_s));
  return reply;
}

Reply ErrorReply(int http_status, const std::string& message) {
  Reply reply;
  reply.status = http_status;
  reply.body = ErrorBody(absl::InvalidArgumentError(message));
  return reply;
}

}  // namespace hostler
