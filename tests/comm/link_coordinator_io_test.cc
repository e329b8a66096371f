// The coordinator's io thread against real sockets: what clients say arrives, what they do wrong
// stays with them.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <thread>

#include "tests/comm/link_fixture.h"
#include "tests/comm/link_values.h"

namespace tailor::comm {
namespace {

using namespace test;  // NOLINT

std::vector<api::ServerEvent> rejected_only(std::optional<std::vector<api::ServerEvent>> events) {
  EXPECT_TRUE(events.has_value());
  EXPECT_TRUE(events && events->size() == 1 &&
              std::holds_alternative<api::Rejected>(events->front()));
  return events.value_or(std::vector<api::ServerEvent>{api::Rejected{}});
}

api::Rejected hear_rejected(BareClient& client) {
  return std::get<api::Rejected>(rejected_only(client.hear()).front());
}

TEST(CoordinatorIo, MessagesReachTheInboxAndAnswersTheirClient) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient a(io->api_endpoint()), b(io->api_endpoint());
  ASSERT_TRUE(a.say(submit_of("a", "hello")));
  const auto from_a = in.next_of<FromClient>();
  ASSERT_TRUE(b.say(api::Credit{7}));
  const auto from_b = in.next_of<FromClient>();
  ASSERT_TRUE(from_a && from_b);
  EXPECT_EQ(std::get<std::string>(std::get<api::Submit>(from_a->message).prompt), "hello");
  EXPECT_EQ(std::get<api::Credit>(from_b->message).messages, 7u);
  EXPECT_NE(from_a->client, from_b->client);
  io->send(ToClient{from_b->client, {chunk_of("b", 0, "to b")}});
  io->send(ToClient{from_a->client, {api::Accepted{"a", {1, 2}, 3, 4}, chunk_of("a", 0, "to a")}});
  const auto heard_a = a.hear(), heard_b = b.hear();
  ASSERT_TRUE(heard_a && heard_b);
  ASSERT_EQ(heard_a->size(), 2u);
  EXPECT_EQ(std::get<api::TokenChunk>(heard_a->at(1)).text, "to a");
  EXPECT_EQ(std::get<api::TokenChunk>(heard_b->at(0)).text, "to b");
}

bool has_ipv6_loopback() {
  const int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  const bool bound = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  if (fd >= 0) close(fd);
  return bound;
}

TEST(CoordinatorIo, ListensOnNamesInterfacesAndIpv6) {
  struct Case {
    const char* listen;
    std::vector<std::string> reached_as;
  };
  std::vector<Case> cases = {{"tcp://localhost:*", {"localhost", "127.0.0.1"}},
                             {"tcp://lo:*", {"127.0.0.1"}},
                             {"tcp://*:*", {"localhost", "127.0.0.1"}}};
  if (has_ipv6_loopback()) {
    cases.push_back({"tcp://[::1]:*", {"[::1]"}});
    cases.push_back({"tcp://[::]:*", {"[::1]", "127.0.0.1", "localhost"}});
  }
  for (const Case& c : cases) {
    auto options = loopback();
    options.api_endpoint = c.listen;
    auto io = start_coordinator(options);
    Incoming in(io->inbox());
    const std::string port = io->api_endpoint().substr(io->api_endpoint().rfind(':'));
    for (const std::string& host : c.reached_as) {
      BareClient client("tcp://" + host + port);
      ASSERT_TRUE(client.say(api::Credit{7}));
      EXPECT_TRUE(in.next_of<FromClient>()) << c.listen << " as " << host << port;
    }
  }
}

TEST(CoordinatorIo, ReqSocketsAreServedToo) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient client(io->api_endpoint(), ZMQ_REQ);
  ASSERT_TRUE(client.say(api::StatusQuery{}));
  const auto query = in.next_of<FromClient>();
  ASSERT_TRUE(query);
  api::StatusReport status;
  status.version = "1.2.3";
  io->send(ToClient{query->client, {status}});
  const auto heard = client.hear();
  ASSERT_TRUE(heard);
  EXPECT_EQ(std::get<api::StatusReport>(heard->at(0)).version, "1.2.3");
}

TEST(CoordinatorIo, WrongMessagesAreAnsweredWhereARequestIdCanBeRead) {
  auto options = loopback();
  options.max_prompt_bytes = 1 << 20;
  auto io = start_coordinator(options);
  BareClient client(io->api_endpoint());
  ASSERT_TRUE(client.say(submit_of("big", std::string(10u << 20, 'x'))));
  auto rejected = hear_rejected(client);
  EXPECT_EQ(rejected.request_id, "big");
  EXPECT_EQ(rejected.error.code, ErrorCode::kLimitExceeded);
  const std::string whole = encode(api::ClientMessage(submit_of("half", "some text")));
  ASSERT_TRUE(client.say_bytes(whole.substr(0, whole.size() - 20)));
  rejected = hear_rejected(client);
  EXPECT_EQ(rejected.request_id, "half");
  EXPECT_EQ(rejected.error.code, ErrorCode::kProtocol);
  EXPECT_EQ(io->inbox().size(), 0u);
}

TEST(CoordinatorIo, GarbageOfOneClientDoesNotTouchAnother) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient vandal(io->api_endpoint()), client(io->api_endpoint());
  RandomValues random(11);
  constexpr int kMessages = 5000, kGood = 200;
  int good = 0;
  for (int i = 0; i < kMessages; ++i) {
    std::string bytes(1 + random.number(100), '\xFF');
    ASSERT_TRUE(vandal.say_bytes(bytes));
    if (i % (kMessages / kGood) != 0) continue;
    ASSERT_TRUE(client.say(submit_of("g" + std::to_string(good++), "x")));
  }
  for (int i = 0; i < kGood; ++i) {
    const auto got = in.next_of<FromClient>();
    ASSERT_TRUE(got);
    EXPECT_EQ(std::get<api::Submit>(got->message).request_id, "g" + std::to_string(i));
    io->send(ToClient{got->client, {chunk_of("g" + std::to_string(i), 0, "ok")}});
    ASSERT_TRUE(client.hear());
  }
  const Time until = now() + kPatience;
  while (io->counters().client_bad_messages.value() < kMessages && now() < until)
    std::this_thread::yield();
  EXPECT_EQ(io->counters().client_bad_messages.value(), kMessages);
}

TEST(CoordinatorIo, MultipartAndEmptyMessagesAreCountedAndDropped) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient client(io->api_endpoint());
  ASSERT_EQ(client.socket().send({"a", "b", "c", "d", "e", "f", "g"}), SendStatus::kSent);
  ASSERT_EQ(client.socket().send({""}), SendStatus::kSent);
  ASSERT_EQ(client.socket().send({"", ""}), SendStatus::kSent);
  ASSERT_TRUE(client.say(api::Credit{1}));
  ASSERT_TRUE(in.next_of<FromClient>());
  EXPECT_EQ(io->counters().client_bad_messages.value(), 3);
}

TEST(CoordinatorIo, AMessageAboveTheTransportLimitOnlyClosesItsOwnConnection) {
  auto options = loopback();
  options.max_message_bytes = 1 << 20;
  auto io = start_coordinator(options);
  Incoming in(io->inbox());
  BareClient client(io->api_endpoint());
  {
    BareClient vandal(io->api_endpoint());
    ASSERT_TRUE(vandal.say(submit_of("huge", std::string(3u << 20, 'x'))));
    ASSERT_TRUE(client.say(api::Credit{1}));
    const auto got = in.next_of<FromClient>();
    ASSERT_TRUE(got);
    EXPECT_TRUE(std::holds_alternative<api::Credit>(got->message));
  }
  ASSERT_TRUE(client.say(api::Credit{2}));
  const auto got = in.next_of<FromClient>();
  ASSERT_TRUE(got);
  EXPECT_EQ(std::get<api::Credit>(got->message).messages, 2u);
}

TEST(CoordinatorIo, FullInboxStopsReadingClientsLosesNothingAndKeepsReadingWorkers) {
  auto options = loopback();
  options.inbox_capacity = 8;
  auto io = start_coordinator(options);
  BareClient client(io->api_endpoint());
  constexpr uint32_t kMessages = 3000;
  for (uint32_t i = 0; i < kMessages; ++i) ASSERT_TRUE(client.say(api::Credit{i}));
  const Time until = now() + kPatience;
  while (io->inbox().has_room() && now() < until) std::this_thread::yield();
  ASSERT_FALSE(io->inbox().has_room());
  BarePeer worker(io->control_endpoint());
  ASSERT_TRUE(worker.say_bytes(encode(report_of(Drained{}))));
  while (io->counters().worker_messages.value() < 1 && now() < until) std::this_thread::yield();
  EXPECT_EQ(io->counters().worker_messages.value(), 1);  // while nobody empties the inbox
  EXPECT_LE(io->inbox().size(), 9u);
  EXPECT_LE(io->counters().client_messages.value(), 9);

  Incoming in(io->inbox());
  bool drained = false;
  for (uint32_t i = 0; i < kMessages || !drained;) {
    const auto got = in.next();
    ASSERT_TRUE(got) << "after " << i;
    if (const auto* from = std::get_if<FromClient>(&*got))
      ASSERT_EQ(std::get<api::Credit>(from->message).messages, i++);
    else
      drained = true;
  }
}

// What decoding it would cost: hundreds of megabytes and seconds of the thread that hears
// heartbeats.
TEST(CoordinatorIo, WhatIsTooLargeIsRefusedUnreadAndWorkersAreHeardBeside) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient vandal(io->api_endpoint());
  BarePeer worker(io->control_endpoint());
  auto huge = submit_of("huge", "Hi");
  huge.sampling.logit_bias.assign(1'000'000, {1, 0.f});
  const std::string bytes = encode(api::ClientMessage(huge));
  constexpr int kMessages = 20;
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_TRUE(vandal.say_bytes(bytes));
    ASSERT_TRUE(worker.say_bytes(encode(report_of(Heartbeat{0, 1, false}))));
  }
  for (int i = 0; i < kMessages; ++i) {
    const auto rejected = hear_rejected(vandal);
    EXPECT_EQ(rejected.request_id, "huge");
    EXPECT_EQ(rejected.error.code, ErrorCode::kLimitExceeded);
  }
  for (int i = 0; i < kMessages; ++i) {
    const auto got = in.next();
    ASSERT_TRUE(got);
    EXPECT_TRUE(std::holds_alternative<FromWorker>(*got));
  }
  EXPECT_EQ(io->counters().client_bytes_in.value() / kMessages,
            static_cast<int64_t>(bytes.size()) + 5);  // and ZeroMQ's identity
}

TEST(CoordinatorIo, TheInboxIsBoundedInBytesForClientsAndForLeaders) {
  auto options = loopback();
  options.inbox_bytes = 1 << 20;
  options.max_inbox_bytes = 2 << 20;
  auto io = start_coordinator(options);
  constexpr int kClients = 8, kEach = 8, kReports = 40;
  constexpr size_t kOne = 200'000;
  std::vector<std::unique_ptr<BareClient>> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.push_back(std::make_unique<BareClient>(io->api_endpoint()));
    for (int i = 0; i < kEach; ++i)
      ASSERT_TRUE(clients.back()->say(submit_of("r", std::string(kOne, 'x'))));
  }
  const Time until = now() + kPatience;
  while (io->inbox().has_room() && now() < until) std::this_thread::yield();
  EXPECT_FALSE(io->inbox().has_room());
  // Leaders are heard beyond that, to a limit of their own.
  BarePeer leader(io->control_endpoint());
  ReportFrame report = report_of(StepReport{});
  std::get<StepReport>(report.from.report).progress.resize(1);
  report.payload.texts = {ProgressText{0, kOne, 0}};
  report.payload.text = std::string(kOne, 'x');
  for (int i = 0; i < kReports; ++i) ASSERT_TRUE(leader.say_bytes(encode(report)));
  while (io->inbox().bytes() < options.max_inbox_bytes && now() < until) std::this_thread::yield();
  EXPECT_GE(io->inbox().bytes(), options.max_inbox_bytes);
  EXPECT_LE(io->counters().client_messages.value() * static_cast<int64_t>(kOne), 3 << 19);
  EXPECT_LE(io->counters().worker_messages.value() * static_cast<int64_t>(kOne), 3 << 19);
  // Nothing is lost.
  int from_clients = 0, from_leader = 0;
  Incoming in(io->inbox());
  while (from_clients < kClients * kEach || from_leader < kReports) {
    const auto got = in.next();
    ASSERT_TRUE(got) << from_clients << " " << from_leader;
    EXPECT_LE(io->inbox().bytes(), options.max_inbox_bytes + kOne + 1000);
    ++(std::holds_alternative<FromClient>(*got) ? from_clients : from_leader);
  }
}

TEST(CoordinatorIo, AClientThatReadsNothingIsGivenUpAtItsLimitOfBytes) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient deaf(io->api_endpoint(), ZMQ_DEALER, /*receive_hwm=*/1);
  ASSERT_TRUE(deaf.say(api::Credit{1}));
  const auto got = in.next_of<FromClient>();
  ASSERT_TRUE(got);
  const std::string text(4 << 20, 'x');
  constexpr int kMost = 300;  // 64 in ZeroMQ's pipe, 64 MiB beside it, the sockets' buffers
  int sent = 0;
  for (; sent < kMost && io->inbox().size() == 0; ++sent) {
    io->send(ToClient{got->client, {chunk_of("x", 0, text)}});
    while (io->outbound_bytes() > 0) std::this_thread::yield();
  }
  EXPECT_LT(sent, kMost);
  const auto gone = in.next_of<ClientGone>();
  ASSERT_TRUE(gone);
  EXPECT_EQ(gone->client, got->client);
}

TEST(CoordinatorIo, SlowReaderGetsEverythingInTheEndAndDelaysNobody) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient slow(io->api_endpoint(), ZMQ_DEALER, /*receive_hwm=*/1), quick(io->api_endpoint());
  ASSERT_TRUE(slow.say(api::Credit{1}));
  const auto slow_id = in.next_of<FromClient>();
  ASSERT_TRUE(quick.say(api::Credit{1}));
  const auto quick_id = in.next_of<FromClient>();
  ASSERT_TRUE(slow_id && quick_id);
  constexpr uint32_t kMessages = 1000;
  const std::string text(20'000, 'x');  // 20 MB in all: more than the sockets' buffers take
  for (uint32_t i = 0; i < kMessages; ++i) {
    io->send(ToClient{slow_id->client, {chunk_of("s", i, text)}});
    io->send(ToClient{quick_id->client, {chunk_of("q", i, "t")}});
    const auto heard = quick.hear();
    ASSERT_TRUE(heard);
    ASSERT_EQ(std::get<api::TokenChunk>(heard->at(0)).first_index, i);
  }
  for (uint32_t i = 0; i < kMessages; ++i) {
    const auto heard = slow.hear();
    ASSERT_TRUE(heard) << i;
    ASSERT_EQ(std::get<api::TokenChunk>(heard->at(0)).first_index, i);
  }
  EXPECT_EQ(io->counters().dropped_to_clients.value(), 0);
}

TEST(CoordinatorIo, AClientThatVanishedIsGoneAtTheNextMessageToIt) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  ClientId id;
  {
    BareClient client(io->api_endpoint());
    ASSERT_TRUE(client.say(api::Credit{1}));
    const auto got = in.next_of<FromClient>();
    ASSERT_TRUE(got);
    id = got->client;
  }
  std::optional<ClientGone> gone;
  for (const Time until = now() + kPatience; !gone && now() < until;) {
    io->send(ToClient{id, {chunk_of("x", 0, "x")}});
    gone = in.next_of<ClientGone>(milliseconds(20));
  }
  ASSERT_TRUE(gone);
  EXPECT_EQ(gone->client, id);
}

TEST(CoordinatorIo, ClientsBeyondTheLimitAreToldAndForgottenOnesMakeRoom) {
  auto options = loopback();
  options.max_clients = 1;
  auto io = start_coordinator(options);
  Incoming in(io->inbox());
  BareClient first(io->api_endpoint()), second(io->api_endpoint());
  ASSERT_TRUE(first.say(api::Credit{1}));
  const auto got = in.next_of<FromClient>();
  ASSERT_TRUE(got);
  ASSERT_TRUE(second.say(submit_of("s", "x")));
  const auto rejected = hear_rejected(second);
  EXPECT_EQ(rejected.request_id, "s");
  EXPECT_EQ(rejected.error.code, ErrorCode::kUnavailable);
  EXPECT_GT(rejected.retry_after, Duration(0));
  io->send(ForgetClient{got->client});
  std::optional<FromClient> later;
  for (const Time until = now() + kPatience; !later && now() < until;) {
    ASSERT_TRUE(second.say(submit_of("s", "x")));
    later = in.next_of<FromClient>(milliseconds(50));
  }
  ASSERT_TRUE(later);
  EXPECT_NE(later->client, got->client);
}

TEST(CoordinatorIo, WhatAClientSaysWhileItIsForgottenIsAnswered) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient client(io->api_endpoint());
  ASSERT_TRUE(client.say(api::Credit{1}));
  const auto first = in.next_of<FromClient>();
  ASSERT_TRUE(first);
  ASSERT_TRUE(client.say(submit_of("s", "x")));
  io->send(ForgetClient{first->client});  // they may cross in either order
  const auto submit = in.next_of<FromClient>();
  ASSERT_TRUE(submit);
  EXPECT_EQ(submit->client, first->client);
  io->send(ToClient{submit->client, {chunk_of("s", 0, "answer")}});
  EXPECT_TRUE(client.hear());
}

TEST(CoordinatorIo, ClientsAreHeardUpToATimeOnlyWhenAllTheySaidIsInTheInbox) {
  auto options = loopback();
  options.inbox_capacity = 1;
  auto io = start_coordinator(options);
  BareClient client(io->api_endpoint());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(client.say(api::Credit{1}));
  const Time until = now() + kPatience;
  while (io->inbox().has_room() && now() < until) std::this_thread::yield();
  const Time full = now();
  ASSERT_FALSE(io->inbox().has_room());
  EXPECT_LT(io->clients_heard_until(), full);
  Incoming in(io->inbox());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(in.next_of<FromClient>()) << i;
  while (io->clients_heard_until() < full && now() < until) std::this_thread::yield();
  EXPECT_GE(io->clients_heard_until(), full);
}

TEST(CoordinatorIo, PendingOutputIsFlushedAtTheEnd) {
  auto io = start_coordinator();
  BareClient client(io->api_endpoint());
  ASSERT_TRUE(client.say(api::Credit{1}));
  ClientId id;
  {
    Incoming in(io->inbox());
    const auto got = in.next_of<FromClient>();
    ASSERT_TRUE(got);
    id = got->client;
  }
  for (uint32_t i = 0; i < 50; ++i) io->send(ToClient{id, {chunk_of("x", i, "bye")}});
  io.reset();
  for (uint32_t i = 0; i < 50; ++i) ASSERT_TRUE(client.hear()) << i;
}

TEST(CoordinatorIo, AnAddressInUseIsNamed) {
  auto io = start_coordinator();
  auto options = loopback();
  options.api_endpoint = io->api_endpoint();
  const auto second = CoordinatorIo::start(options);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(second.error().message.find(io->api_endpoint()), std::string::npos)
      << second.error().message;
  options.api_endpoint = "nonsense";
  EXPECT_EQ(CoordinatorIo::start(options).error().code, ErrorCode::kInvalidArgument);
}

TEST(CoordinatorIo, AWorkerOfAnotherVersionIsIgnored) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BarePeer other(io->control_endpoint()), same(io->control_endpoint());
  std::string bytes = encode(report_of(Drained{}));
  bytes[1] = 9;
  ASSERT_TRUE(other.say_bytes(bytes));
  const Time until = now() + kPatience;
  while (io->counters().worker_bad_messages.value() < 1 && now() < until) std::this_thread::yield();
  ASSERT_TRUE(same.say_bytes(encode(report_of(Heartbeat{1, 2, true}))));
  const auto got = in.next_of<FromWorker>();
  ASSERT_TRUE(got);
  EXPECT_TRUE(std::holds_alternative<Heartbeat>(got->frame.from.report));
  EXPECT_EQ(got->frame.from.envelope.replica, ReplicaId{5});
}

TEST(CoordinatorIo, OnlyPeersWithTheClustersKeyAreHeardOnTheControlLink) {
  auto io = start_coordinator();
  Incoming in(io->inbox());
  BareClient stranger(io->control_endpoint());
  BarePeer neighbour(io->control_endpoint(), key_of(8)), own(io->control_endpoint());
  const std::string hello = encode(report_of(Hello{}));
  ASSERT_TRUE(stranger.say_bytes(hello));
  ASSERT_TRUE(neighbour.say_bytes(hello));
  EXPECT_TRUE(stranger.was_refused());
  EXPECT_TRUE(neighbour.was_refused());
  ASSERT_TRUE(own.say_bytes(encode(report_of(Heartbeat{1, 2, true}))));
  const auto got = in.next_of<FromWorker>();
  ASSERT_TRUE(got);
  EXPECT_TRUE(std::holds_alternative<Heartbeat>(got->frame.from.report));
  EXPECT_EQ(io->counters().worker_messages.value(), 1);
  EXPECT_EQ(io->inbox().size(), 0u);
  auto keyless = loopback();
  keyless.link_key = {};
  EXPECT_EQ(CoordinatorIo::start(keyless).error().code, ErrorCode::kInvalidArgument);
}

TEST(LinkKey, IsReadFromAFileThatIsClosedToOthers) {
  const std::string path = testing::TempDir() + "link_key_" + std::to_string(getpid());
  const auto write = [&](const std::string& text, mode_t mode) {
    std::ofstream(path, std::ios::trunc) << text;
    chmod(path.c_str(), mode);
    return read_link_key(path);
  };
  const std::string digits = "07" + std::string(62, '0');
  const auto key = write(digits + "\n", 0600);
  ASSERT_TRUE(key) << key.error().message;
  EXPECT_EQ(key->secret_half, key_of().secret_half);
  EXPECT_EQ(key->public_half, key_of().public_half);
  EXPECT_TRUE(write(digits, 0400));
  for (const mode_t open_to_others : {0640, 0604, 0660})
    EXPECT_EQ(write(digits, open_to_others).error().code, ErrorCode::kInvalidArgument);
  for (const std::string& wrong : {std::string(), digits.substr(1), digits + "0", digits + "\n\n",
                                   "0x" + digits.substr(2), "-1" + digits.substr(2)}) {
    const auto refused = write(wrong, 0600);
    ASSERT_FALSE(refused) << wrong;
    EXPECT_NE(refused.error().message.find(path), std::string::npos);
  }
  unlink(path.c_str());
  EXPECT_EQ(read_link_key(path).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace tailor::comm
