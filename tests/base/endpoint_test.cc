#include "base/endpoint.h"

#include <gtest/gtest.h>

namespace tailor {
namespace {

TEST(Endpoints, AreReadOrRefusedInOneSentence) {
  const auto address = parse_tcp("tcp://[::1]:5555");
  ASSERT_TRUE(address.has_value());
  EXPECT_EQ((*address)->host, "::1");
  EXPECT_FALSE(parse_tcp("ipc:///tmp/x")->has_value());
  for (const char* wrong :
       {"", "127.0.0.1:5", "tcp://h", "tcp://h:", "tcp://h:0", "tcp://h:70000", "tcp://h:x",
        "tcp://:5", "tcp://::1:5", "tcp://[h]:5", "tcp://[127.0.0.1]:5"}) {
    EXPECT_FALSE(parse_tcp(wrong).has_value()) << wrong;
  }
  EXPECT_EQ(local_address("tcp://0.0.0.0:5"), "tcp://127.0.0.1:5");
  EXPECT_EQ(local_address("tcp://10.0.0.1:5"), "tcp://10.0.0.1:5");
}

TEST(Endpoints, AFreePortIsConcreteAndATakenOneIsRefused) {
  const auto endpoint = with_free_port("tcp://127.0.0.1:*");
  ASSERT_TRUE(endpoint.has_value()) << endpoint.error().message;
  EXPECT_TRUE(check_can_bind(*endpoint).has_value());
  EXPECT_EQ(with_free_port("tcp://127.0.0.1:77").value(), "tcp://127.0.0.1:77");
  EXPECT_EQ(check_can_bind("tcp://no.such.host.invalid:77").error().code,
            ErrorCode::kInvalidArgument);
  // A name is checked as it will be bound, and stays in the address that is shown.
  const auto named = with_free_port("tcp://localhost:*");
  ASSERT_TRUE(named.has_value()) << named.error().message;
  EXPECT_EQ(named->rfind("tcp://localhost:", 0), 0u) << *named;
  EXPECT_EQ(bindable({"localhost", "5"})->host, "127.0.0.1");
  EXPECT_EQ(bindable({"lo", "5"})->host, "127.0.0.1");
  EXPECT_EQ(bindable({"::1", "5"})->host, "::1");
}

}  // namespace
}  // namespace tailor
