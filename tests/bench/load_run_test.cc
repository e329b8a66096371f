// The load run against a client that ends every request at once.
#include "bench/load_run.h"

#include <gtest/gtest.h>
#include <poll.h>

#include "base/clock.h"

namespace tailor::bench {
namespace {

class PromptClient : public client::Client {
 public:
  Result<void> submit(const api::Submit& submit) override {
    sent.push_back(now());
    open_.push_back(submit.request_id);
    return {};
  }
  Result<void> cancel(const std::string&, const std::string&) override { return {}; }
  Result<void> resume(const api::Resume&) override { return {}; }
  Result<api::StatusReport> status(Duration) override { return api::StatusReport{}; }
  Result<std::vector<api::ServerEvent>> poll(Duration timeout) override {
    if (open_.empty())
      ::poll(nullptr, 0, static_cast<int>(std::chrono::ceil<milliseconds>(timeout).count()));
    std::vector<api::ServerEvent> events;
    for (const auto& id : open_) {
      api::Finished finished;
      finished.request_id = id;
      events.push_back(finished);
    }
    open_.clear();
    return events;
  }
  std::vector<Time> sent;

 private:
  std::vector<std::string> open_;
};

std::vector<api::Submit> three_requests() {
  std::vector<api::Submit> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].request_id = std::to_string(i);
  return requests;
}

TEST(LoadRun, OpenLoopSendsNoRequestBeforeItsTime) {
  PromptClient client;
  LoadOptions options;
  options.arrivals = {Duration{}, milliseconds(20), milliseconds(50)};
  const Time start = now();
  const auto run = run_load(client, three_requests(), options);
  ASSERT_TRUE(run) << run.error().message;
  ASSERT_EQ(client.sent.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_GE(client.sent[i] - start, options.arrivals[i]);
  EXPECT_GE(run->wall_s, 0.05);
}

TEST(LoadRun, ArrivalsForAnotherNumberOfRequestsAreRefused) {
  PromptClient client;
  LoadOptions options;
  options.arrivals = {Duration{}};
  EXPECT_EQ(run_load(client, three_requests(), options).error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(client.sent.empty());
}

}  // namespace
}  // namespace tailor::bench
