#include "comm/worker_io.h"

#include <zmq.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "base/bytes_held.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/codec_control.h"
#include "comm/codec_shared.h"
#include "comm/zmq_socket.h"

namespace tailor::comm {
namespace {

constexpr Duration kHelloAgain = seconds(2);
constexpr Duration kFlushLimit = seconds(1);
constexpr int kFlushPollMs = 50;
constexpr int kLinkEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
constexpr int kRefusals = 5;  // connections in a row that end before their handshake: said once

struct RingBell {};
using Outgoing = std::variant<ReportFrame, RingBell>;

size_t held(const WorkerInput& input) {
  const auto* command = std::get_if<CommandFrame>(&input);
  return sizeof input + (command == nullptr ? 0 : bytes_outside(command->payload));
}

class WorkerIoThread final : public WorkerIo {
 public:
  WorkerIoThread(const WorkerIoOptions& options, const Progress& progress)
      : options_(options),
        progress_(progress),
        inbox_(options.inbox_capacity, options.inbox_bytes, held),
        outbound_(1) {}

  ~WorkerIoThread() override {
    outbound_.close();
    if (thread_.joinable()) thread_.join();
    inbox_.close();
  }

  Result<void> open() {
    quiet_protobuf_log();
    TAILOR_ASSIGN(control_, ZmqSocket::open(context_, ZMQ_DEALER));
    control_.set(ZMQ_LINGER, 500);
    control_.set(ZMQ_IMMEDIATE,
                 1);  // what a broken connection held dies with it: a new one begins with Hello
    control_.set(ZMQ_SNDHWM, 64);  // small: what waits shows in backlog()
    control_.set(ZMQ_RCVHWM, 0);   // never stops, for it has heartbeats: ZmqSocket::keep_alive()
    control_.set(ZMQ_HEARTBEAT_IVL, 1000);
    control_.set(ZMQ_HEARTBEAT_TIMEOUT, 5000);
    control_.set(ZMQ_RECONNECT_IVL, 100);
    control_.set(ZMQ_RECONNECT_IVL_MAX, 1000);
    control_.show(options_.link_key);
    TAILOR_ASSIGN(control_events_, control_.monitor(context_, kLinkEvents, "control"));
    TAILOR_TRY(control_.connect(options_.control_endpoint));
    if (options_.tp_size > 1) TAILOR_TRY(open_doorbell());
    const Time at = now();
    silent_since_ = next_beat_ = at;
    thread_ = std::thread([this] { run(); });
    return {};
  }

  Mailbox<WorkerInput>& inbox() override { return inbox_; }
  void report(ReportFrame report) override {
    backlog_.fetch_add(1, std::memory_order_relaxed);
    outbound_.push_always(std::move(report));
  }
  size_t backlog() const override { return backlog_.load(std::memory_order_relaxed); }
  void ring() override { outbound_.push_always(RingBell{}); }
  const std::string& doorbell_endpoint() const override { return doorbell_endpoint_; }

 private:
  bool is_leader() const { return options_.rank == 0; }

  // The leader's ROUTER answers each follower's word with its own: the number of rings so far. A
  // ring before a follower has joined, or lost with a connection, is thus made good when that
  // follower says its next word, which it does whenever its connection comes up.
  Result<void> open_doorbell() {
    TAILOR_ASSIGN(doorbell_, ZmqSocket::open(context_, is_leader() ? ZMQ_ROUTER : ZMQ_DEALER));
    doorbell_.set(ZMQ_LINGER, 0);
    doorbell_.set_int64(ZMQ_MAXMSGSIZE, 4096);
    doorbell_.set(ZMQ_HEARTBEAT_IVL, 2000);
    doorbell_.set(ZMQ_HEARTBEAT_TIMEOUT, 10000);
    if (is_leader()) {
      doorbell_.set(ZMQ_ROUTER_MANDATORY, 1);
      doorbell_.take_only(options_.link_key);
      TAILOR_TRY(doorbell_.bind(options_.doorbell_bind));
      doorbell_endpoint_ = doorbell_.last_endpoint();
      followers_.resize(options_.tp_size);
      return {};
    }
    doorbell_.set(ZMQ_RECONNECT_IVL, 20);
    doorbell_.show(options_.link_key);
    TAILOR_ASSIGN(doorbell_events_, doorbell_.monitor(context_, kLinkEvents, "doorbell"));
    return doorbell_.connect(options_.doorbell_endpoint);
  }

  void run() noexcept {
    try {
      while (turn()) {
      }
      flush();
    } catch (const std::exception& error) {
      LOG_ERROR("the io thread of rank {} cannot go on: {}", options_.rank, error.what());
      std::abort();
    }
    doorbell_events_.close();
    control_events_.close();
    doorbell_.close();
    control_.close();
  }

  bool turn() {
    zmq_pollitem_t items[5] = {{nullptr, outbound_.fd(), ZMQ_POLLIN, 0},
                               {control_.get(), 0, control_interest(), 0},
                               {control_events_.get(), 0, ZMQ_POLLIN, 0}};
    int count = 3;
    const int bell_item = doorbell_.get() != nullptr ? count++ : -1;
    if (bell_item >= 0) items[bell_item] = {doorbell_.get(), 0, ZMQ_POLLIN, 0};
    const int bell_events_item = doorbell_events_.get() != nullptr ? count++ : -1;
    if (bell_events_item >= 0) items[bell_events_item] = {doorbell_events_.get(), 0, ZMQ_POLLIN, 0};
    zmq_poll(items, count, poll_ms());

    const bool last = outbound_.closed();
    for (auto& outgoing : outbound_.drain())
      std::visit([this](auto& value) { handle(value); }, outgoing);
    if (last) return false;
    if (items[2].revents & ZMQ_POLLIN) follow_link();
    if (items[1].revents & ZMQ_POLLIN) read_commands();
    if (bell_events_item >= 0 && (items[bell_events_item].revents & ZMQ_POLLIN)) follow_doorbell();
    if (bell_item >= 0 && (items[bell_item].revents & ZMQ_POLLIN)) read_doorbell();
    send_reports();
    const Time at = now();
    if (at >= next_beat_) beat(at);
    return true;
  }

  short control_interest() const {
    const short reading = inbox_.has_room() ? ZMQ_POLLIN : 0;  // looked at again with each beat
    return connected_ && !unsent_.empty() ? reading | ZMQ_POLLOUT : reading;
  }

  long poll_ms() const {
    const auto left = std::chrono::ceil<milliseconds>(next_beat_ - now()).count();
    return static_cast<long>(std::max<int64_t>(left, 0));
  }

  void flush() {
    const Time until = now() + kFlushLimit;
    send_reports();
    while (connected_ && !unsent_.empty() && now() < until) {
      zmq_pollitem_t item{control_.get(), 0, ZMQ_POLLOUT, 0};
      zmq_poll(&item, 1, kFlushPollMs);
      send_reports();
    }
  }

  // ---- reports ----

  void handle(ReportFrame& report) {
    std::string bytes = encode(report);
    if (std::holds_alternative<Hello>(report.from.report)) {
      last_hello_ = std::move(bytes);
      backlog_.fetch_sub(1, std::memory_order_relaxed);  // a Hello is kept beside the queue
      say_hello();
      return;
    }
    unsent_.push_back(std::move(bytes));
  }

  void handle(RingBell&) {
    ++rings_;
    for (uint32_t rank = 1; rank < followers_.size(); ++rank) tell_follower(rank);
  }

  void send_reports() {
    while (connected_ && !unsent_.empty() &&
           control_.send({unsent_.front()}) == SendStatus::kSent) {
      unsent_.pop_front();
      backlog_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  void say_hello() {
    welcomed_ = false;
    if (last_hello_.empty() || !connected_) return;
    hello_at_ = control_.send({last_hello_}) == SendStatus::kSent
                    ? now()
                    : Time{};  // else with the next heartbeat
  }

  // ---- the link and its commands ----

  void follow_link() {
    while (const int event = control_events_.next_event()) {
      if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        if (lost_told_)
          LOG_INFO("rank {}: the coordinator at {} is back", options_.rank,
                   options_.control_endpoint);
        connected_ = true;
        lost_told_ = false;
        refusals_ = 0;
        say_hello();
      } else {
        if (connected_) silent_since_ = now();
        if (!connected_ && ++refusals_ == kRefusals)
          LOG_WARN("rank {}: who listens at {} does not take this cluster's link key",
                   options_.rank, options_.control_endpoint);
        connected_ = false;
      }
    }
  }

  void read_commands() {
    std::vector<std::string> frames;
    size_t count = 0;
    while (inbox_.has_room() && control_.receive(frames, &count)) {
      auto command = decode_command(frames.front());
      if (count != 1 || !command) {
        if (!std::exchange(complained_, true))
          LOG_WARN("rank {}: commands are ignored: {}", options_.rank,
                   command ? "a command of several frames" : command.error().message);
        continue;
      }
      take_command(std::move(*command));
    }
  }

  void take_command(CommandFrame command) {
    const Envelope& envelope = command.to.envelope;
    if (std::holds_alternative<Welcome>(command.to.command)) {
      epoch_ = envelope.epoch;
      welcomed_ = true;
    } else {
      const bool for_anyone =
          envelope.epoch == Epoch{0} && std::holds_alternative<Shutdown>(command.to.command);
      if (!for_anyone && envelope.epoch != epoch_) {
        LOG_DEBUG("rank {}: command {} of epoch {} is ignored, this is epoch {}", options_.rank,
                  envelope.sequence, envelope.epoch.value, epoch_.value);
        return;
      }
    }
    inbox_.push_always(std::move(command));  // read only while there is room
  }

  // ---- heartbeat ----

  void beat(Time at) {
    const uint64_t count = progress_.counter.load(std::memory_order_relaxed);
    const bool busy = progress_.busy.load(std::memory_order_relaxed);
    next_beat_ = std::max(next_beat_ + options_.heartbeat_every, at);
    if (connected_) {
      if (!welcomed_ && !last_hello_.empty() && at - hello_at_ >= kHelloAgain) say_hello();
      // A full pipe means that reports are on their way: a heartbeat less does no harm.
      const Epoch epoch = welcomed_ ? epoch_ : Epoch{0};
      control_.send({encode(ReportFrame{
          {Envelope{options_.replica, epoch}, Heartbeat{options_.rank, count, busy}}, {}})});
    } else if (!lost_told_ && at - silent_since_ >= options_.coordinator_lost_after) {
      LOG_WARN("replica {} rank {}: no coordinator at {} for {:.1f} s", options_.replica.value,
               options_.rank, options_.control_endpoint, to_seconds(at - silent_since_));
      lost_told_ = true;
      inbox_.push_always(LinkDown{});
    }
    for (uint32_t rank = 1; rank < followers_.size(); ++rank)
      if (followers_[rank].told < rings_ && !followers_[rank].identity.empty()) tell_follower(rank);
  }

  // ---- doorbell ----

  struct Follower {
    std::string identity;  // empty until it has joined
    uint64_t told = 0;     // rings handed to the transport
  };

  void tell_follower(uint32_t rank) {
    Follower& follower = followers_[rank];
    if (follower.identity.empty()) return;  // it will ask when it joins
    const SendStatus status = doorbell_.send({follower.identity, encode(DoorbellWord{0, rings_})});
    if (status == SendStatus::kSent) follower.told = rings_;
    if (status == SendStatus::kUnreachable) follower.identity.clear();
  }

  void follow_doorbell() {
    while (const int event = doorbell_events_.next_event())
      if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
        doorbell_.send({encode(DoorbellWord{options_.rank, heard_})});
  }

  void read_doorbell() {
    std::vector<std::string> frames;
    size_t count = 0;
    while (doorbell_.receive(frames, &count)) {
      const auto word = decode_doorbell(frames.back());
      if (count != (is_leader() ? 2u : 1u) || !word) {
        LOG_WARN("rank {}: a doorbell word that is none is ignored", options_.rank);
        continue;
      }
      if (is_leader()) {
        if (word->rank == 0 || word->rank >= followers_.size()) continue;
        Follower& follower = followers_[word->rank];
        follower.identity = frames.front();
        follower.told = word->rings;
        if (follower.told < rings_) tell_follower(word->rank);
      } else {
        for (; heard_ < word->rings; ++heard_)
          inbox_.push_always(Doorbell{});  // bounded: the leader waits in MPI
      }
    }
  }

  const WorkerIoOptions options_;
  const Progress& progress_;
  std::string doorbell_endpoint_;  // constant after open()

  // Shared, guarded by themselves.
  Mailbox<WorkerInput> inbox_;
  Mailbox<Outgoing> outbound_;
  std::atomic<size_t> backlog_{0};

  // Owned by the io thread. The context outlives its sockets.
  ZmqContext context_;
  ZmqSocket control_, control_events_;
  ZmqSocket doorbell_, doorbell_events_;
  std::deque<std::string> unsent_;
  std::string last_hello_;
  Time hello_at_{};
  bool connected_ = false;
  int refusals_ = 0;
  bool welcomed_ = false;
  bool lost_told_ = false;
  bool complained_ = false;
  Epoch epoch_;
  Time silent_since_{};
  Time next_beat_{};
  std::vector<Follower> followers_;  // leader; by rank
  uint64_t rings_ = 0;               // leader
  uint64_t heard_ = 0;               // follower
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<WorkerIo>> WorkerIo::start(const WorkerIoOptions& options,
                                                  const Progress& progress) {
  if (options.rank >= options.tp_size)
    return fail(ErrorCode::kInvalidArgument, "rank " + std::to_string(options.rank) +
                                                 " does not exist at tp size " +
                                                 std::to_string(options.tp_size));
  TAILOR_TRY(check_link_key(options.link_key));
  if (options.heartbeat_every <= Duration(0))
    return fail(ErrorCode::kInvalidArgument, "heartbeat_every must be above 0");
  auto io = std::make_unique<WorkerIoThread>(options, progress);
  TAILOR_TRY(io->open());
  return std::unique_ptr<WorkerIo>(std::move(io));
}

}  // namespace tailor::comm
