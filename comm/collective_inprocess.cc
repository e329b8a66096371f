#include "comm/collective_inprocess.h"

#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "comm/collective_checks.h"

namespace tailor::comm {

struct InProcessGroup::Shared {
  struct Call {
    const char* operation = "";
    int root = 0;
    size_t bytes = 0;
  };
  /// One collective call in flight: what each rank sent, and who has arrived.
  struct Round {
    std::vector<std::vector<std::byte>> sent;  // [rank]; written by its rank before it arrives
    std::vector<bool> arrived;                 // guarded by mutex
    int missing = 0;                           // guarded by mutex
    uint64_t sequence = 0;                     // guarded by mutex; 0 = not in use yet
    Call first;                                // guarded by mutex: what the first rank called
  };

  Shared(int size, Duration deadline) : size(size), deadline(deadline) {
    for (auto& round : rounds) round.sent.resize(size);
  }

  /// Arrives at call number `sequence` with what `rank` sends and waits for the others.
  Result<Round*> meet(int rank, uint64_t sequence, const Call& call,
                      std::span<const std::byte> sent);

  const int size;
  const Duration deadline;
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Error> broken;  // guarded by mutex
  std::array<Round, 2> rounds;
};

Result<InProcessGroup::Shared::Round*> InProcessGroup::Shared::meet(
    int rank, uint64_t sequence, const Call& call, std::span<const std::byte> sent) {
  Round& round = rounds[sequence % 2];
  round.sent[rank].assign(sent.begin(), sent.end());

  std::unique_lock lock(mutex);
  if (broken) return fail_with("the group is broken", *broken);
  if (round.sequence != sequence) {  // first to arrive
    round.sequence = sequence;
    round.arrived.assign(size, false);
    round.missing = size;
    round.first = call;
  } else if (std::strcmp(round.first.operation, call.operation) != 0 ||
             round.first.root != call.root || round.first.bytes != call.bytes) {
    const auto describe = [](const Call& c) {
      return std::string(c.operation) + " of " + std::to_string(c.bytes) + " bytes, root " +
             std::to_string(c.root);
    };
    broken = Error{ErrorCode::kInternal, "call #" + std::to_string(sequence) + ": rank " +
                                             std::to_string(rank) + " called " + describe(call) +
                                             " where another rank called " + describe(round.first)};
    changed.notify_all();
    return fail(*broken);
  }
  round.arrived[rank] = true;
  if (--round.missing == 0) {
    changed.notify_all();
    return &round;
  }
  const bool done = changed.wait_until(lock, now() + deadline,
                                       [&] { return round.missing == 0 || broken.has_value(); });
  if (round.missing == 0) return &round;
  if (done) return fail_with("the group is broken", *broken);
  std::vector<int> here, missing;
  for (int r = 0; r < size; ++r) (round.arrived[r] ? here : missing).push_back(r);
  Error error = timeout_error(call.operation, sequence, rank, size, missing, deadline);
  error.message += " (" + name_ranks(here) + " arrived)";
  broken = error;
  changed.notify_all();
  return fail(error);
}

namespace {

class InProcessCollective final : public Collective {
 public:
  InProcessCollective(std::shared_ptr<InProcessGroup::Shared> shared, int rank)
      : shared_(std::move(shared)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return shared_->size; }

  Result<void> broadcast(std::span<std::byte> data, int root) override {
    TAILOR_TRY(check_root("broadcast", root, size()));
    TAILOR_TRY(check_bytes("broadcast", data.size()));
    std::span<const std::byte> sent;
    if (rank_ == root) sent = data;
    TAILOR_ASSIGN(auto* round,
                  shared_->meet(rank_, ++sequence_, {"broadcast", root, data.size()}, sent));
    if (rank_ != root && !data.empty())
      std::memcpy(data.data(), round->sent[root].data(), data.size());
    return {};
  }

  Result<void> all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    TAILOR_TRY(check_gathered_sizes("all_gather", mine.size(), out.size(), size()));
    TAILOR_ASSIGN(auto* round,
                  shared_->meet(rank_, ++sequence_, {"all_gather", 0, mine.size()}, mine));
    copy_all(*round, mine.size(), out);
    return {};
  }

  Result<void> gather(std::span<const std::byte> mine, std::span<std::byte> out,
                      int root) override {
    TAILOR_TRY(check_root("gather", root, size()));
    TAILOR_TRY(check_bytes("gather", mine.size()));
    if (rank_ == root) TAILOR_TRY(check_gathered_sizes("gather", mine.size(), out.size(), size()));
    TAILOR_ASSIGN(auto* round,
                  shared_->meet(rank_, ++sequence_, {"gather", root, mine.size()}, mine));
    if (rank_ == root) copy_all(*round, mine.size(), out);
    return {};
  }

  Result<void> barrier() override {
    TAILOR_TRY(shared_->meet(rank_, ++sequence_, {"barrier", 0, 0}, {}));
    return {};
  }

 private:
  static void copy_all(const InProcessGroup::Shared::Round& round, size_t bytes,
                       std::span<std::byte> out) {
    if (bytes == 0) return;
    for (size_t r = 0; r < round.sent.size(); ++r)
      std::memcpy(out.data() + r * bytes, round.sent[r].data(), bytes);
  }

  const std::shared_ptr<InProcessGroup::Shared> shared_;
  const int rank_;
  uint64_t sequence_ = 0;
};

}  // namespace

InProcessGroup::InProcessGroup(int size, Duration deadline)
    : shared_(std::make_shared<Shared>(size, deadline)) {
  TAILOR_CHECK(size >= 1, "a group has at least one rank");
}
InProcessGroup::~InProcessGroup() = default;

std::unique_ptr<Collective> InProcessGroup::join(int rank) {
  TAILOR_CHECK(rank >= 0 && rank < shared_->size, "rank outside its group");
  return std::make_unique<InProcessCollective>(shared_, rank);
}

}  // namespace tailor::comm
