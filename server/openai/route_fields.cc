#include <memory>
#include <string>

#include "engine/base/checksum.h"
#include "router/route_wish.h"
#include "server/openai/common_fields.h"

namespace hostler {

void ReadRouteWish(FieldReader* fields, GenerateRequest* request) {
  RouteWish wish;
  bool any = false;
  if (const Json* explain = fields->Find("explain"); explain != nullptr) {
    wish.explain = *explain == true;
    wish.in_body = any = true;
  }
  if (const Json* bounds = fields->Find("hostler"); bounds != nullptr) {
    if (!bounds->is_object()) return fields->Fail("hostler", "must be an object");
    FieldReader reader(*bounds, "hostler");
    std::optional<double> deadline_ms;
    reader.ReadNumber("min_quality", {0, 1}, &wish.min_quality);
    reader.ReadNumber("max_cost", {0, 1e9}, &wish.max_cost);
    reader.ReadNumber("deadline_ms", {0, 1e9, true}, &deadline_ms);
    fields->Fail(reader.status());
    if (deadline_ms.has_value()) wish.deadline_s = *deadline_ms / 1000;
    wish.in_body = any = true;
  }
  const Json* user = fields->Find("user");
  if (user != nullptr && user->is_string()) {
    wish.payer = Checksum(user->get_ref<const std::string&>());
    any = true;
  }
  if (any) request->route = std::make_shared<const RouteWish>(wish);
}

}  // namespace hostler
