#include "server/status_codes.h"

#include "gtest/gtest.h"

namespace hostler {
namespace {

TEST(StatusCodesTest, MapsEveryCodeOnce) {
  for (int code = 0; code <= 16; ++code) {
    const StatusMapping& mapping = MapStatus(static_cast<absl::StatusCode>(code));
    EXPECT_EQ(static_cast<int>(mapping.code), code);
    EXPECT_EQ(mapping.grpc, code) << "gRPC's numbers are absl's";
    EXPECT_EQ(mapping.type.empty(), code == 0);
    EXPECT_GE(mapping.http, code == 0 ? 200 : 400);
    EXPECT_LT(mapping.http, 600);
  }
}

TEST(StatusCodesTest, TreatsOtherCodesAsUnknown) {
  EXPECT_EQ(MapStatus(static_cast<absl::StatusCode>(99)).code, absl::StatusCode::kUnknown);
}

TEST(StatusCodesTest, ClientsCanTellWhoseFaultItIs) {
  EXPECT_EQ(MapStatus(absl::StatusCode::kInvalidArgument).http, 400);
  EXPECT_EQ(MapStatus(absl::StatusCode::kInvalidArgument).type, "invalid_request_error");
  EXPECT_EQ(MapStatus(absl::StatusCode::kNotFound).http, 404);
  EXPECT_EQ(MapStatus(absl::StatusCode::kResourceExhausted).http, 429);
  EXPECT_EQ(MapStatus(absl::StatusCode::kUnavailable).http, 503);
  EXPECT_EQ(MapStatus(absl::StatusCode::kDataLoss).http, 500);
}

}  // namespace
}  // namespace hostler
