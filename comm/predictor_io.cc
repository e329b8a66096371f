#include "comm/predictor_io.h"

#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "comm/codec_control.h"
#include "comm/codec_shared.h"
#include "comm/zmq_socket.h"

namespace tailor::comm {
namespace {

constexpr int kLinkEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
constexpr int64_t kMaxMessageBytes = 1 << 20;  // a prompt is at most 16 KiB of it
constexpr int kMessagesPerTurn = 256;

class PredictorIoThread final : public PredictorIo {
 public:
  explicit PredictorIoThread(const PredictorIoOptions& options)
      : options_(options),
        hello_(encode(PredictorReport(options.hello))),
        inbox_(options.inbox_capacity, options.inbox_bytes,
               [](const Predict& question) { return sizeof question + question.prompt.size(); }),
        outbound_(1) {}

  ~PredictorIoThread() override {
    outbound_.close();
    if (thread_.joinable()) thread_.join();
    inbox_.close();
  }

  Result<void> open() {
    quiet_protobuf_log();
    TAILOR_ASSIGN(control_, ZmqSocket::open(context_, ZMQ_DEALER));
    control_.set(ZMQ_LINGER, 0);
    control_.set(ZMQ_IMMEDIATE, 1);  // what a broken connection held dies with it
    control_.set(ZMQ_SNDHWM, 1024);
    control_.set(ZMQ_RCVHWM, 0);  // bounded by the coordinator's open questions
    control_.set_int64(ZMQ_MAXMSGSIZE, kMaxMessageBytes);
    control_.set(ZMQ_HEARTBEAT_IVL, 1000);
    control_.set(ZMQ_HEARTBEAT_TIMEOUT, 5000);
    control_.set(ZMQ_RECONNECT_IVL, 100);
    control_.set(ZMQ_RECONNECT_IVL_MAX, 1000);
    control_.show(options_.link_key);
    TAILOR_ASSIGN(events_, control_.monitor(context_, kLinkEvents, "predictor"));
    TAILOR_TRY(control_.connect(options_.control_endpoint));
    next_hello_ = now();
    thread_ = std::thread([this] { run(); });
    return {};
  }

  Mailbox<Predict>& inbox() override { return inbox_; }
  void answer(Predicted predicted) override { outbound_.push_always(std::move(predicted)); }
  uint64_t dropped() const override { return dropped_.load(std::memory_order_relaxed); }

 private:
  void run() noexcept {
    try {
      while (turn()) {
      }
    } catch (const std::exception& error) {
      LOG_ERROR("the predictor's io thread cannot go on: {}", error.what());
      std::abort();
    }
    events_.close();
    control_.close();
  }

  bool turn() {
    const short interest = connected_ && !unsent_.empty() ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN;
    zmq_pollitem_t items[3] = {{nullptr, outbound_.fd(), ZMQ_POLLIN, 0},
                               {control_.get(), 0, interest, 0},
                               {events_.get(), 0, ZMQ_POLLIN, 0}};
    const auto left = std::chrono::ceil<milliseconds>(next_hello_ - now()).count();
    zmq_poll(items, 3, static_cast<long>(std::max<int64_t>(left, 0)));

    const bool last = outbound_.closed();
    for (auto& predicted : outbound_.drain())
      if (connected_) unsent_.push_back(encode(PredictorReport(std::move(predicted))));
    if (last) return false;
    if (items[2].revents & ZMQ_POLLIN) follow_link();
    if (items[1].revents & ZMQ_POLLIN) read_questions();
    while (connected_ && !unsent_.empty() && control_.send({unsent_.front()}) == SendStatus::kSent)
      unsent_.pop_front();
    if (now() >= next_hello_) say_hello();
    return true;
  }

  void say_hello() {
    next_hello_ = now() + options_.hello_every;
    if (connected_) control_.send({hello_});
  }

  void follow_link() {
    while (const int event = events_.next_event()) {
      connected_ = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
      LOG_INFO("{} the coordinator at {}", connected_ ? "connected to" : "no connection to",
               options_.control_endpoint);
      if (connected_)
        say_hello();
      else
        unsent_.clear();
    }
  }

  void read_questions() {
    size_t count = 0;
    for (int i = 0; i < kMessagesPerTurn && control_.receive(frames_, &count); ++i) {
      auto question = decode_predict(frames_.front());
      if (count != 1 || !question) {
        if (!std::exchange(complained_, true))
          LOG_WARN("questions are ignored: {}",
                   question ? "a message of several frames" : question.error().message);
        continue;
      }
      if (!inbox_.push(std::move(*question))) dropped_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  const PredictorIoOptions options_;
  const std::string hello_;  // encoded

  // Shared, guarded by themselves.
  Mailbox<Predict> inbox_;
  Mailbox<Predicted> outbound_;
  std::atomic<uint64_t> dropped_{0};

  // Owned by the io thread. The context outlives its sockets.
  ZmqContext context_;
  ZmqSocket control_, events_;
  std::deque<std::string> unsent_;
  std::vector<std::string> frames_;
  bool connected_ = false;
  bool complained_ = false;
  Time next_hello_{};
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<PredictorIo>> PredictorIo::start(const PredictorIoOptions& options) {
  if (options.control_endpoint.empty())
    return fail(ErrorCode::kInvalidArgument, "the predictor needs the coordinator's endpoint");
  TAILOR_TRY(check_link_key(options.link_key));
  auto io = std::make_unique<PredictorIoThread>(options);
  TAILOR_TRY(io->open());
  return std::unique_ptr<PredictorIo>(std::move(io));
}

}  // namespace tailor::comm
