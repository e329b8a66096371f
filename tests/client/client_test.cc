// The C++ client against the echo coordinator over real sockets: streams, credit, repeats, loss of
// the server.
#include "client/client.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <thread>

#include "tests/client/echo_coordinator.h"
#include "tests/comm/link_fixture.h"

namespace tailor::client {
namespace {

using namespace comm::test;  // NOLINT
using namespace test;        // NOLINT

/// An echo coordinator in a thread of its own.
class EchoServer {
 public:
  explicit EchoServer(const std::string& endpoint = "tcp://127.0.0.1:*") {
    auto options = loopback();
    options.api_endpoint = endpoint;
    io_ = start_coordinator(options);
    thread_ = std::thread([this] {
      EchoCoordinator echo(*io_);
      while (!stop_) echo.turn(milliseconds(10));
      stalls_ = echo.credit_stalls();
    });
  }
  ~EchoServer() { stop(); }
  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    io_.reset();
  }
  const std::string& endpoint() const { return io_->api_endpoint(); }
  comm::CoordinatorIo& io() { return *io_; }
  uint64_t stalls() const { return stalls_; }  ///< after stop()

 private:
  std::unique_ptr<comm::CoordinatorIo> io_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> stalls_{0};
  std::thread thread_;
};

std::unique_ptr<Client> connect(const std::string& endpoint, uint32_t window = 64) {
  auto client = Client::connect({endpoint, window});
  EXPECT_TRUE(client) << client.error().message;
  return std::move(*client);
}

/// What came of each request.
struct Heard {
  std::string text;
  std::vector<TokenId> tokens;
  size_t logprobs = 0;
  int accepted = 0, ended = 0;
  FinishReason reason = FinishReason::kNone;
  Error error{ErrorCode::kOk, ""};
};

/// Polls until `count` requests have ended; checks that nothing comes twice or out of order.
std::map<std::string, Heard> hear(Client& client, size_t count, Duration patience = kPatience) {
  std::map<std::string, Heard> all;
  const Time until = now() + patience;
  for (size_t ended = 0; ended < count && now() < until;) {
    auto events = client.poll(milliseconds(200));
    EXPECT_TRUE(events) << events.error().message;
    if (!events) break;
    for (auto& event : *events) {
      if (auto* a = std::get_if<api::Accepted>(&event)) ++all[a->request_id].accepted;
      if (auto* c = std::get_if<api::TokenChunk>(&event)) {
        Heard& heard = all[c->request_id];
        EXPECT_EQ(c->first_index, heard.tokens.size());
        EXPECT_EQ(c->text_offset, heard.text.size());
        heard.tokens.insert(heard.tokens.end(), c->token_ids.begin(), c->token_ids.end());
        heard.text += c->text;
        heard.logprobs += c->logprobs.size();
      }
      if (auto* f = std::get_if<api::Finished>(&event)) {
        Heard& heard = all[f->request_id];
        ++heard.ended;
        heard.reason = f->samples.at(0).reason;
        heard.error = f->error;
        ++ended;
      }
      if (auto* r = std::get_if<api::Rejected>(&event)) {
        all[r->request_id].error = r->error;
        ++all[r->request_id].ended;
        ++ended;
      }
    }
  }
  return all;
}

TEST(Client, StreamsAnAnswer) {
  EchoServer server;
  auto client = connect(server.endpoint());
  auto submit = submit_of("r", "hello there, world");
  submit.sampling.logprobs = 0;
  ASSERT_TRUE(client->submit(submit));
  const auto heard = hear(*client, 1)["r"];
  EXPECT_EQ(heard.text, "hello there, world");
  EXPECT_EQ(heard.tokens.size(), 18u);
  EXPECT_EQ(heard.logprobs, 18u);
  EXPECT_EQ(heard.accepted, 1);
  EXPECT_EQ(heard.reason, FinishReason::kStop);
  EXPECT_EQ(heard.error.code, ErrorCode::kOk);
}

TEST(Client, ManyRequestsUnderASmallCreditWindowEndOnceEach) {
  EchoServer server;
  auto client = connect(server.endpoint(), 3);
  constexpr int kRequests = 300;
  for (int i = 0; i < kRequests; ++i)
    ASSERT_TRUE(
        client->submit(submit_of("r" + std::to_string(i), std::string(10 + i % 50, 'a' + i % 26))));
  const auto all = hear(*client, kRequests);
  ASSERT_EQ(all.size(), static_cast<size_t>(kRequests));
  for (int i = 0; i < kRequests; ++i) {
    const Heard& heard = all.at("r" + std::to_string(i));
    EXPECT_EQ(heard.text, std::string(10 + i % 50, 'a' + i % 26));
    EXPECT_EQ(heard.ended, 1);
  }
  server.stop();
  EXPECT_GT(server.stalls(), 0u) << "the window was never felt";
}

TEST(Client, StatusKeepsTheEventsOfOthers) {
  EchoServer server;
  auto client = connect(server.endpoint());
  ASSERT_TRUE(client->submit(submit_of("r", "kept for later")));
  const auto status = client->status(kPatience);
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(status->version, "echo");
  EXPECT_EQ(hear(*client, 1)["r"].text, "kept for later");
}

TEST(Client, AMessageThatWouldCloseTheConnectionIsNotSent) {
  EchoServer server;
  auto client = connect(server.endpoint());
  api::Submit large = submit_of("large", std::string(comm::kMaxMessageBytes, 'x'));
  const auto refused = client->submit(large);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kLimitExceeded);
  EXPECT_NE(refused.error().message.find("the limit is 67108864"), std::string::npos)
      << refused.error().message;
  ASSERT_TRUE(client->submit(submit_of("small", "x")));
  EXPECT_TRUE(client->status(kPatience));
}

TEST(Client, ANameThatTheServerWouldCutIsNotSent) {
  EchoServer server;
  auto client = connect(server.endpoint());
  const std::string name(comm::kMaxRequestIdBytes, 'x');
  for (const std::string& bad : {name + "x", std::string()}) {
    api::Submit submit = submit_of(bad, "x");
    for (const auto& said :
         {client->submit(submit), client->cancel(bad), client->resume({bad, {}, ""})}) {
      ASSERT_FALSE(said);
      EXPECT_EQ(said.error().code, ErrorCode::kInvalidArgument);
      EXPECT_EQ(said.error().message,
                "request_id must have 1..128 bytes, found " + std::to_string(bad.size()));
    }
  }
  ASSERT_TRUE(client->submit(submit_of(name, "x")));
  EXPECT_EQ(hear(*client, 1)[name].text, "x");
}

TEST(Client, StatusOfNobodyIsATimeoutThatNamesTheEndpoint) {
  auto client = connect("tcp://127.0.0.1:1");
  const auto status = client->status(milliseconds(50));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_NE(status.error().message.find("tcp://127.0.0.1:1"), std::string::npos);
}

TEST(Client, AForeignServiceAndAnImpossiblePortAreNamed) {
  // A service that listens and says nothing, as far as ZeroMQ is concerned.
  const int service = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(service, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(service, 8), 0);
  ASSERT_EQ(getsockname(service, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string endpoint = "tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  auto client = connect(endpoint);
  auto status = client->status(milliseconds(100));
  for (const Time until = now() + kPatience;
       now() < until && status.error().code == ErrorCode::kTimeout;)
    status = client->status(milliseconds(100));
  close(service);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(status.error().message.find("no cluster answers at " + endpoint + ": what listens"), 0u)
      << status.error().message;

  for (const char* port : {"0", "65536", "99999"}) {
    const auto impossible = Client::connect({std::string("tcp://127.0.0.1:") + port});
    ASSERT_FALSE(impossible) << port;
    EXPECT_EQ(impossible.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(impossible.error().message.find("1..65535"), std::string::npos);
  }
  const auto bare = Client::connect({"tcp://::1:5555"});
  ASSERT_FALSE(bare);
  EXPECT_NE(bare.error().message.find("tcp://[::1]:5555"), std::string::npos);
}

TEST(Client, CancelAndRejectionsAreTyped) {
  EchoServer server;
  auto client = connect(server.endpoint());
  ASSERT_TRUE(client->submit(submit_of("f", "forever")));
  ASSERT_TRUE(client->cancel("f"));
  EXPECT_EQ(hear(*client, 1)["f"].reason, FinishReason::kCancelled);
  ASSERT_TRUE(client->cancel("unknown"));
  EXPECT_EQ(hear(*client, 1)["unknown"].error.code, ErrorCode::kNotFound);
  auto submit = submit_of("nan", "x");
  submit.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(client->submit(submit));
  const auto nan = hear(*client, 1)["nan"];
  EXPECT_EQ(nan.error.code, ErrorCode::kInvalidArgument);
  EXPECT_NE(nan.error.message.find("temperature"), std::string::npos);
}

TEST(Client, AnothersRequestIsCancelledByItsTokenAndTheCancellerHearsTheEnd) {
  EchoServer server;
  auto owner = connect(server.endpoint()), other = connect(server.endpoint());
  ASSERT_TRUE(owner->submit(submit_of("f", "forever")));
  const auto accepted = owner->poll(kPatience);
  ASSERT_TRUE(accepted && !accepted->empty());
  const std::string token = std::get<api::Accepted>(accepted->front()).token;
  for (const std::string& wrong : {std::string(), token + "x"}) {
    ASSERT_TRUE(other->cancel("f", wrong));
    EXPECT_EQ(hear(*other, 1)["f"].error.code, ErrorCode::kUnauthenticated);
  }
  ASSERT_TRUE(other->cancel("f", token));
  EXPECT_EQ(hear(*other, 1)["f"].reason, FinishReason::kCancelled);
}

TEST(Client, ResumeStartsWhereItIsAsked) {
  EchoServer server;
  auto first = connect(server.endpoint());
  ASSERT_TRUE(first->submit(submit_of("r", "0123456789abcdef")));
  ASSERT_EQ(hear(*first, 1).size(), 1u);
  auto second = connect(server.endpoint());
  ASSERT_TRUE(second->resume({"r", {10}, "token of r"}));
  std::string text;
  uint32_t first_index = 0;
  for (bool ended = false; !ended;) {
    auto events = second->poll(kPatience);
    ASSERT_TRUE(events && !events->empty());
    for (auto& event : *events) {
      if (auto* chunk = std::get_if<api::TokenChunk>(&event)) {
        if (text.empty()) first_index = chunk->first_index;
        text += chunk->text;
      }
      ended = ended || std::holds_alternative<api::Finished>(event);
    }
  }
  EXPECT_EQ(first_index, 10u);
  EXPECT_EQ(text, "abcdef");
}

TEST(Client, RepeatsAreCutAndGapsAskedForAgain) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  auto client = connect(io->api_endpoint());
  ASSERT_TRUE(client->submit(submit_of("r", "x")));
  ClientId id;
  for (bool found = false; !found;) {
    const auto from = in.next_of<comm::FromClient>();
    ASSERT_TRUE(from);
    id = from->client;
    found = std::holds_alternative<api::Submit>(from->message);
  }
  const auto piece = [](uint32_t at, std::string text) {
    api::TokenChunk chunk{"r", 0, at, {}, at, text, {}};
    for (char c : text) chunk.token_ids.push_back(c);
    return chunk;
  };
  io->send(comm::ToClient{id, {piece(0, "abc")}});
  io->send(comm::ToClient{id, {piece(1, "bcde")}});  // a repeat that goes on
  io->send(comm::ToClient{id, {piece(0, "ab")}});    // nothing new
  io->send(comm::ToClient{id, {piece(7, "hi")}});    // "fg" was lost
  std::string text;
  std::optional<api::Resume> resume;
  const auto listen = [&](size_t bytes) {
    for (const Time until = now() + kPatience; text.size() < bytes && now() < until;) {
      const auto events = client->poll(milliseconds(50));
      ASSERT_TRUE(events);
      for (const auto& event : *events)
        if (const auto* chunk = std::get_if<api::TokenChunk>(&event)) text += chunk->text;
    }
  };
  listen(5);
  for (const Time until = now() + kPatience; !resume && now() < until;) {
    ASSERT_TRUE(client->poll(milliseconds(10)));
    while (auto from = in.next_of<comm::FromClient>(milliseconds(1)))
      if (auto* asked = std::get_if<api::Resume>(&from->message)) resume = *asked;
  }
  ASSERT_TRUE(resume);
  EXPECT_EQ(resume->from_token, std::vector<uint32_t>{5});
  io->send(comm::ToClient{id, {piece(5, "fghi")}});
  listen(9);
  EXPECT_EQ(text, "abcdefghi");
}

/// A client and the bare io thread it talks to: the test says what the server says.
struct Conversation {
  std::unique_ptr<comm::CoordinatorIo> io = start_coordinator();
  Incoming<comm::CoordinatorInput> in{io->inbox()};
  std::unique_ptr<Client> client;
  std::vector<api::ServerEvent> heard;

  explicit Conversation(Duration forgotten_after = ClientOptions{}.forgotten_after) {
    auto connected = Client::connect({io->api_endpoint(), 64, forgotten_after});
    EXPECT_TRUE(connected) << connected.error().message;
    client = std::move(*connected);
  }

  /// What the client says next that is a T, while it is not polled.
  template <class T>
  std::optional<T> said() {
    while (auto from = in.next_of<comm::FromClient>()) {
      id_ = from->client;
      if (auto* wanted = std::get_if<T>(&from->message)) return *wanted;
    }
    return std::nullopt;
  }
  /// Until all that was sent before has been heard: events come in order, so up to the report.
  void say(std::vector<api::ServerEvent> events) {
    events.push_back(api::StatusReport{});
    io->send(comm::ToClient{id_, std::move(events)});
    const Time until = now() + kPatience;
    for (bool told = false; !told && now() < until;) {
      auto some = client->poll(milliseconds(50));
      ASSERT_TRUE(some) << some.error().message;
      for (auto& event : *some) {
        if (std::holds_alternative<api::StatusReport>(event))
          told = true;
        else
          heard.push_back(std::move(event));
      }
    }
  }

 private:
  ClientId id_;
};

api::TokenChunk piece(uint32_t at, const std::string& text) {
  api::TokenChunk chunk{"r", 0, at, {}, at, text, {}};
  for (char c : text) chunk.token_ids.push_back(c);
  return chunk;
}
api::Finished end_after(uint32_t tokens) {
  return {"r", {{FinishReason::kStop, "", tokens}}, 1, {}, Error{ErrorCode::kOk, ""}};
}

TEST(Client, AnEndBeforeTheLastTokenIsAskedForAgain) {
  Conversation talk;
  ASSERT_TRUE(talk.client->submit(submit_of("r", "x")));
  ASSERT_TRUE(talk.said<api::Submit>());
  talk.say({piece(0, "ab"), end_after(5)});
  ASSERT_EQ(talk.heard.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<api::TokenChunk>(talk.heard[0]));
  const auto resume = talk.said<api::Resume>();
  ASSERT_TRUE(resume);
  EXPECT_EQ(resume->from_token, std::vector<uint32_t>{2});
  talk.say({piece(2, "cde"), end_after(5)});
  ASSERT_EQ(talk.heard.size(), 3u);
  EXPECT_TRUE(std::holds_alternative<api::Finished>(talk.heard[2]));
}

TEST(Client, AResumeThatNamesFewerSamplesThanThereAreEnds) {
  Conversation talk;
  ASSERT_TRUE(talk.client->resume({"r", {5}}));
  ASSERT_TRUE(talk.said<api::Resume>());
  api::Finished end = end_after(5);
  end.samples.push_back({FinishReason::kStop, "", 9});
  talk.say({end});
  EXPECT_EQ(talk.heard.size(), 1u);
}

TEST(Client, NothingOfARequestIsHeardBehindItsEndButARejection) {
  Conversation talk;
  ASSERT_TRUE(talk.client->submit(submit_of("r", "x")));
  ASSERT_TRUE(talk.said<api::Submit>());
  talk.say({piece(0, "ab"), end_after(2)});
  ASSERT_EQ(talk.heard.size(), 2u);
  talk.say({piece(0, "ab"), end_after(2),
            api::Rejected{"r", Error{ErrorCode::kNotFound, "no such request"}, {}}});
  ASSERT_EQ(talk.heard.size(), 3u);
  EXPECT_TRUE(std::holds_alternative<api::Rejected>(talk.heard[2]));
}

TEST(Client, WhoSpeaksAfterALongSilenceGrantsAndAsksAnew) {
  Conversation talk(Duration{0});  // every silence is a long one
  ASSERT_TRUE(talk.client->submit(submit_of("r", "x")));
  ASSERT_TRUE(talk.said<api::Submit>());
  ASSERT_TRUE(talk.client->submit(submit_of("s", "y")));
  const auto credit = talk.said<api::Credit>();
  ASSERT_TRUE(credit);
  EXPECT_EQ(credit->messages, 64u);
  const auto resume = talk.said<api::Resume>();
  ASSERT_TRUE(resume);
  EXPECT_EQ(resume->request_id, "r");
  const auto submit = talk.said<api::Submit>();
  ASSERT_TRUE(submit);
  EXPECT_EQ(submit->request_id, "s");
  // Polling is speaking too, and is not held back by what was asked a moment ago.
  ASSERT_TRUE(talk.client->poll(Duration{0}));
  EXPECT_TRUE(talk.said<api::Resume>());
}

TEST(Client, WhoIsForgottenGrantsAndAsksAnewWithItsTokens) {
  Conversation talk;
  ASSERT_TRUE(talk.client->submit(submit_of("r", "x")));
  ASSERT_TRUE(talk.said<api::Submit>());
  api::Accepted accepted{"r", {1}, 2, 3, "secret"};
  talk.say({accepted, piece(0, "ab")});
  talk.say({api::Forgotten{}});
  EXPECT_EQ(talk.heard.size(), 2u);
  const auto credit = talk.said<api::Credit>();
  ASSERT_TRUE(credit);
  EXPECT_EQ(credit->messages, 64u);
  const auto resume = talk.said<api::Resume>();
  ASSERT_TRUE(resume);
  EXPECT_EQ(resume->from_token, std::vector<uint32_t>{2});
  EXPECT_EQ(resume->token, "secret");
  ASSERT_TRUE(talk.client->cancel("r"));
  const auto cancel = talk.said<api::Cancel>();
  ASSERT_TRUE(cancel);
  EXPECT_EQ(cancel->token, "secret");
}

TEST(Client, AServerThatComesBackWithoutTheRequestSaysSo) {
  auto server = std::make_unique<EchoServer>();
  const std::string endpoint = server->endpoint();
  auto client = connect(endpoint);
  ASSERT_TRUE(client->submit(submit_of("r", "forever")));
  for (bool accepted = false; !accepted;) {
    auto events = client->poll(kPatience);
    ASSERT_TRUE(events && !events->empty());
    for (auto& event : *events) accepted = accepted || std::holds_alternative<api::Accepted>(event);
  }
  server.reset();
  server = std::make_unique<EchoServer>(endpoint);
  const auto heard = hear(*client, 1)["r"];
  EXPECT_EQ(heard.error.code, ErrorCode::kNotFound);
  ASSERT_TRUE(client->submit(submit_of("s", "works again")));
  EXPECT_EQ(hear(*client, 1)["s"].text, "works again");
}

TEST(Client, ClientsInManyThreadsShareOneServer) {
  EchoServer server;
  constexpr int kClients = 16, kRequests = 40;
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < kClients; ++c)
    threads.emplace_back([&, c] {
      auto client = connect(server.endpoint(), 4);
      for (int i = 0; i < kRequests; ++i)
        ASSERT_TRUE(client->submit(
            submit_of(std::to_string(c) + "/" + std::to_string(i), "client " + std::to_string(c))));
      for (const auto& [id, heard] : hear(*client, kRequests))
        if (heard.text == "client " + std::to_string(c) && heard.ended == 1) ++good;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, kClients * kRequests);
}

TEST(Client, NewRequestIdsDiffer) {
  EXPECT_EQ(new_request_id().size(), 32u);
  EXPECT_NE(new_request_id(), new_request_id());
}

}  // namespace
}  // namespace tailor::client
