#include "bench/http_run.h"

#include <algorithm>
#include <asio.hpp>
#include <cctype>
#include <memory>
#include <optional>

#include "base/clock.h"

namespace tailor::bench {
namespace {

using asio::ip::tcp;

/// The value of a header field, by its name in lower case.
std::optional<std::string> field(const std::string& head, const std::string& name) {
  std::string lower = head;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const size_t at = lower.find("\r\n" + name + ":");
  if (at == std::string::npos) return std::nullopt;
  const size_t begin = head.find_first_not_of(' ', at + 3 + name.size());
  return head.substr(begin, head.find("\r\n", begin) - begin);
}

/// One request from its timer to the end of its answer; keeps itself alive through its callbacks.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(asio::io_context& io, const HttpRequest& request, uint16_t port)
      : timer_(io), socket_(io), port_(port) {
    out_ = (request.body.empty() ? "GET " : "POST ") + request.target +
           " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n";
    if (!request.body.empty())
      out_ += "Content-Type: application/json\r\nContent-Length: " +
              std::to_string(request.body.size()) + "\r\n";
    out_ += "\r\n" + request.body;
  }

  void start(Time at) {
    timer_.expires_at(at);
    timer_.async_wait([self = shared_from_this()](asio::error_code) { self->connect(); });
  }
  const asio::error_code& error() const { return error_; }
  const std::string& answer() const { return answer_; }
  std::optional<Time> ended() const { return ended_; }

 private:
  void connect() {
    socket_.async_connect({asio::ip::address_v4::loopback(), port_},
                          [self = shared_from_this()](asio::error_code error) {
                            if (error) return self->end(error);
                            self->send();
                          });
  }
  void send() {
    asio::async_write(socket_, asio::buffer(out_),
                      [self = shared_from_this()](asio::error_code error, size_t) {
                        if (error) return self->end(error);
                        self->receive();
                      });
  }
  void receive() {
    asio::async_read(socket_, asio::dynamic_buffer(answer_),
                     [self = shared_from_this()](asio::error_code error, size_t) {
                       self->end(error == asio::error::eof ? asio::error_code() : error);
                     });
  }
  void end(asio::error_code error) {
    error_ = error;
    ended_ = now();
  }

  asio::steady_timer timer_;
  tcp::socket socket_;
  const uint16_t port_;
  std::string out_, answer_;
  asio::error_code error_;
  std::optional<Time> ended_;
};

}  // namespace

Result<std::string> http_body(const std::string& answer) {
  const size_t head_end = answer.find("\r\n\r\n");
  const size_t space = answer.find(' ');
  if (answer.rfind("HTTP/1.", 0) != 0 || head_end == std::string::npos || space > head_end)
    return fail(ErrorCode::kProtocol, "the server's answer is not HTTP: " + answer.substr(0, 100));
  const std::string head = answer.substr(0, head_end + 2);
  const std::string body = answer.substr(head_end + 4);
  if (field(head, "transfer-encoding"))
    return fail(ErrorCode::kProtocol, "the server sent a chunked answer, which was not asked for");
  if (const auto length = field(head, "content-length");
      length && *length != std::to_string(body.size()))
    return fail(ErrorCode::kProtocol, "the server's answer has " + std::to_string(body.size()) +
                                          " bytes where it says " + *length);
  if (const std::string status = answer.substr(space + 1, 3); status != "200")
    return fail(ErrorCode::kUnavailable,
                "the server answered with status " + status + ": " + body.substr(0, 200));
  return body;
}

Result<HttpRun> run_http(uint16_t port, const std::vector<HttpRequest>& requests,
                         Duration timeout) {
  asio::io_context io;
  const Time start = now();
  std::vector<std::shared_ptr<Exchange>> exchanges;
  for (const HttpRequest& request : requests) {
    exchanges.push_back(std::make_shared<Exchange>(io, request, port));
    exchanges.back()->start(start + request.at);
  }
  io.run_until(start + timeout);
  HttpRun run;
  Time last = start;
  for (const auto& exchange : exchanges) {
    if (!exchange->ended())
      return fail(ErrorCode::kTimeout, "127.0.0.1:" + std::to_string(port) +
                                           " has not answered every request within " +
                                           std::to_string(to_seconds(timeout)) + " s");
    if (exchange->error())
      return fail(ErrorCode::kUnavailable,
                  "127.0.0.1:" + std::to_string(port) + ": " + exchange->error().message());
    TAILOR_ASSIGN(std::string body, http_body(exchange->answer()));
    run.bodies.push_back(std::move(body));
    last = std::max(last, *exchange->ended());
  }
  const auto first =
      std::min_element(requests.begin(), requests.end(),
                       [](const HttpRequest& a, const HttpRequest& b) { return a.at < b.at; });
  run.wall_s = first == requests.end() ? 0 : to_seconds(last - (start + first->at));
  return run;
}

}  // namespace tailor::bench
