// The open-loop HTTP client against a server of a few lines.
#include "bench/http_run.h"

#include <gtest/gtest.h>

#include <asio.hpp>
#include <thread>

#include "base/clock.h"

namespace tailor::bench {
namespace {

using asio::ip::tcp;

/// Takes `count` connections, answers each with what `answer` makes of the request, in reverse
/// order of arrival: a client that waits for one answer before it sends the next never ends.
class ReverseServer {
 public:
  ReverseServer(int count, std::function<std::string(const std::string&)> answer)
      : acceptor_(io_, {asio::ip::address_v4::loopback(), 0}),
        thread_([this, count, answer = std::move(answer)] {
          std::vector<tcp::socket> sockets;
          std::vector<std::string> requests;
          for (int i = 0; i < count; ++i) {
            sockets.push_back(acceptor_.accept());
            std::string& request = requests.emplace_back();
            asio::read_until(sockets.back(), asio::dynamic_buffer(request), "END");
          }
          for (int i = count - 1; i >= 0; --i) {
            asio::write(sockets[i], asio::buffer(answer(requests[i])));
            sockets[i].close();
          }
        }) {}
  ~ReverseServer() { thread_.join(); }
  uint16_t port() const { return acceptor_.local_endpoint().port(); }

 private:
  asio::io_context io_;
  tcp::acceptor acceptor_;
  std::thread thread_;
};

std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\ncontent-LENGTH: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

TEST(HttpRun, SendsEachRequestAtItsTimeWhateverIsOpen) {
  ReverseServer server(3, [](const std::string& request) {
    return ok("echo " + request.substr(request.find("\r\n\r\n") + 4));
  });
  const auto run = run_http(server.port(),
                            {{milliseconds(0), "/a", "oneEND"},
                             {milliseconds(30), "/a", "twoEND"},
                             {milliseconds(60), "/a", "threeEND"}},
                            seconds(20));
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ(run->bodies, (std::vector<std::string>{"echo oneEND", "echo twoEND", "echo threeEND"}));
  EXPECT_GE(run->wall_s, 0.06);
}

TEST(HttpRun, NobodyListeningIsAnError) {
  uint16_t port = 0;
  {
    asio::io_context io;
    port = tcp::acceptor(io, {asio::ip::address_v4::loopback(), 0}).local_endpoint().port();
  }
  const auto run = run_http(port, {{Duration{}, "/health", ""}}, seconds(60));
  ASSERT_FALSE(run);
  EXPECT_EQ(run.error().code, ErrorCode::kUnavailable);
}

TEST(HttpRun, ASilentServerIsATimeout) {
  asio::io_context io;
  tcp::acceptor silent(io, {asio::ip::address_v4::loopback(), 0});
  const auto run =
      run_http(silent.local_endpoint().port(), {{Duration{}, "/", ""}}, milliseconds(50));
  ASSERT_FALSE(run);
  EXPECT_EQ(run.error().code, ErrorCode::kTimeout);
}

TEST(HttpBody, TellsWhatIsWrongWithAnAnswer) {
  EXPECT_EQ(http_body(ok("{}")).value(), "{}");
  EXPECT_EQ(http_body("HTTP/1.1 200 OK\r\n\r\nall").value(), "all");
  EXPECT_EQ(http_body("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").error().code,
            ErrorCode::kProtocol);
  EXPECT_EQ(http_body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0").error().code,
            ErrorCode::kProtocol);
  EXPECT_EQ(http_body("").error().code, ErrorCode::kProtocol);
  const auto busy = http_body("HTTP/1.1 503 Loading\r\n\r\n{\"error\":1}");
  EXPECT_EQ(busy.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(busy.error().message, "the server answered with status 503: {\"error\":1}");
}

}  // namespace
}  // namespace tailor::bench
