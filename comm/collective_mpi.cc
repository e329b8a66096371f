#include "comm/collective_mpi.h"

#include <mpi.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "comm/collective_checks.h"

namespace tailor::comm {

namespace {

constexpr int kSpins = 50;          // looks before the first yield: about 5 us
constexpr int kLooksPerClock = 16;  // yields between two readings of the clock

class MpiCollective final : public Collective {
 public:
  MpiCollective(MPI_Comm comm, const MpiCollectiveOptions& options)
      : comm_(comm), options_(options), owner_(std::this_thread::get_id()) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    const size_t most = 2 * static_cast<size_t>(size_);
    requests_.reserve(most);
    transfers_.reserve(most);
    done_.resize(most);
    statuses_.resize(most);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Result<void> broadcast(std::span<std::byte> data, int root) override {
    TAILOR_TRY(check_root("broadcast", root, size_));
    TAILOR_TRY(check_bytes("broadcast", data.size()));
    TAILOR_TRY(begin(Operation::kBroadcast));
    if (rank_ == root) {
      for (int d = 1; d < size_; ++d) send(data, (rank_ + d) % size_);
    } else {
      receive(data, root);
    }
    return finish();
  }

  Result<void> all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    TAILOR_TRY(check_gathered_sizes("all_gather", mine.size(), out.size(), size_));
    TAILOR_TRY(begin(Operation::kAllGather));
    for (int d = 1; d < size_; ++d)
      receive(part(out, mine.size(), (rank_ + d) % size_), (rank_ + d) % size_);
    for (int d = 1; d < size_; ++d) send(mine, (rank_ + d) % size_);
    keep_own(mine, out);
    return finish();
  }

  Result<void> gather(std::span<const std::byte> mine, std::span<std::byte> out,
                      int root) override {
    TAILOR_TRY(check_root("gather", root, size_));
    TAILOR_TRY(check_bytes("gather", mine.size()));
    if (rank_ == root) TAILOR_TRY(check_gathered_sizes("gather", mine.size(), out.size(), size_));
    TAILOR_TRY(begin(Operation::kGather));
    if (rank_ == root) {
      for (int d = 1; d < size_; ++d)
        receive(part(out, mine.size(), (rank_ + d) % size_), (rank_ + d) % size_);
      keep_own(mine, out);
    } else {
      send(mine, root);
    }
    return finish();
  }

  Result<void> barrier() override {
    TAILOR_TRY(begin(Operation::kBarrier));
    for (int d = 1; d < size_; ++d) receive({}, (rank_ + d) % size_);
    for (int d = 1; d < size_; ++d) send({}, (rank_ + d) % size_);
    return finish();
  }

 private:
  struct Transfer {
    int peer = 0;
    bool receives = false;
    int bytes = 0;
  };

  static std::span<std::byte> part(std::span<std::byte> out, size_t bytes, int rank) {
    return out.subspan(static_cast<size_t>(rank) * bytes, bytes);
  }

  void keep_own(std::span<const std::byte> mine, std::span<std::byte> out) {
    if (!mine.empty()) std::memmove(part(out, mine.size(), rank_).data(), mine.data(), mine.size());
  }

  Result<void> begin(Operation operation) {
    TAILOR_CHECK(std::this_thread::get_id() == owner_,
                 "MPI is called by the rank's main thread only");
    if (broken_) return fail_with("the group is broken", *broken_);
    operation_ = operation;
    ++sequence_;
    requests_.clear();
    transfers_.clear();
    start_error_ = MPI_SUCCESS;
    return {};
  }

  /// Tags tell operations and neighbouring calls apart and stay under 32,768, the least that MPI
  /// promises.
  int tag() const { return static_cast<int>(sequence_ % 8191) * 4 + static_cast<int>(operation_); }

  void send(std::span<const std::byte> data, int peer) {
    const int bytes = static_cast<int>(data.size());
    requests_.push_back(MPI_REQUEST_NULL);
    transfers_.push_back({peer, false, bytes});
    const int code = MPI_Isend(data.data(), bytes, MPI_BYTE, peer, tag(), comm_, &requests_.back());
    if (code != MPI_SUCCESS) start_error_ = code;
  }

  void receive(std::span<std::byte> data, int peer) {
    const int bytes = static_cast<int>(data.size());
    requests_.push_back(MPI_REQUEST_NULL);
    transfers_.push_back({peer, true, bytes});
    const int code = MPI_Irecv(data.data(), bytes, MPI_BYTE, peer, tag(), comm_, &requests_.back());
    if (code != MPI_SUCCESS) start_error_ = code;
  }

  /// Waits until every transfer of this call is done.
  Result<void> finish() {
    if (start_error_ != MPI_SUCCESS) return give_up(mpi_error(start_error_));
    int open = static_cast<int>(requests_.size());
    int looks = 0;
    bool sleeping = false;
    Time started{};  // read late: a wait that ends at once reads no clock
    Duration sleep = options_.sleep_between;
    while (open > 0) {
      int count = 0;
      const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                    done_.data(), statuses_.data());
      if (code != MPI_SUCCESS) return give_up(testsome_error(code, count));
      if (count != MPI_UNDEFINED && count > 0) {
        for (int i = 0; i < count; ++i) TAILOR_TRY(check_received(done_[i], statuses_[i]));
        open -= count;
        continue;
      }
      if (++looks <= kSpins) continue;
      if (!sleeping && looks % kLooksPerClock != 0) {
        sched_yield();
        continue;
      }
      const Time at = now();
      if (started == Time{}) started = at;
      const Duration waited = at - started;
      if (waited >= options_.deadline) return give_up(timed_out());
      if (waited < options_.yield_for) continue;
      const Duration nap = std::min(sleep, options_.deadline - waited);
      const timespec request{nap / seconds(1), static_cast<long>((nap % seconds(1)).count())};
      nanosleep(&request, nullptr);
      sleep = std::min(sleep + sleep / 8, 20 * options_.sleep_between);
      sleeping = true;
    }
    return {};
  }

  Result<void> check_received(int index, const MPI_Status& status) {
    const Transfer& transfer = transfers_[index];
    if (!transfer.receives) return {};
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (bytes == transfer.bytes) return {};
    return give_up(Error{ErrorCode::kInternal, where() + ": rank " + std::to_string(transfer.peer) +
                                                   " sent " + std::to_string(bytes) +
                                                   " bytes, expected " +
                                                   std::to_string(transfer.bytes)});
  }

  std::string where() const {
    return std::string(name(operation_)) + " #" + std::to_string(sequence_) + " on rank " +
           std::to_string(rank_) + " of " + std::to_string(size_);
  }

  Error mpi_error(int code) const {
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    return Error{ErrorCode::kInternal,
                 where() + ": " + std::string(text, static_cast<size_t>(length))};
  }

  Error testsome_error(int code, int count) const {
    if (code != MPI_ERR_IN_STATUS || count == MPI_UNDEFINED) return mpi_error(code);
    for (int i = 0; i < count; ++i) {
      if (statuses_[i].MPI_ERROR == MPI_SUCCESS || statuses_[i].MPI_ERROR == MPI_ERR_PENDING)
        continue;
      Error error = mpi_error(statuses_[i].MPI_ERROR);
      error.message += " (from rank " + std::to_string(transfers_[done_[i]].peer) + ", expected " +
                       std::to_string(transfers_[done_[i]].bytes) + " bytes)";
      return error;
    }
    return mpi_error(code);
  }

  Error timed_out() const {
    std::vector<int> missing;
    for (size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL) missing.push_back(transfers_[i].peer);
    std::sort(missing.begin(), missing.end());
    missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
    return timeout_error(name(operation_), sequence_, rank_, size_, missing, options_.deadline);
  }

  /// Takes back what can be taken back (receives; sends under way cannot) and refuses every later
  /// call.
  Unexpected give_up(Error error) {
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      if (transfers_[i].receives) MPI_Cancel(&requests_[i]);
      MPI_Request_free(&requests_[i]);
    }
    broken_ = error;
    return fail(std::move(error));
  }

  const MPI_Comm comm_;
  const MpiCollectiveOptions options_;
  const std::thread::id owner_;
  int rank_ = 0;
  int size_ = 1;

  std::optional<Error> broken_;
  Operation operation_ = Operation::kBarrier;
  uint64_t sequence_ = 0;
  int start_error_ = MPI_SUCCESS;
  // of the call in progress; reserved once: no allocation per call
  std::vector<MPI_Request> requests_;
  std::vector<Transfer> transfers_;  // [request]
  std::vector<int> done_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace

std::unique_ptr<Collective> make_mpi_collective(MpiCommunicator communicator,
                                                const MpiCollectiveOptions& options) {
  return std::make_unique<MpiCollective>(MPI_Comm_f2c(communicator.fortran_handle), options);
}

}  // namespace tailor::comm
