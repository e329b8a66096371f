#include "comm/collective_nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <sched.h>

#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "comm/collective_checks.h"

namespace tailor::comm {

namespace {

Error cuda_error(const std::string& where, cudaError_t code) {
  return Error{ErrorCode::kDeviceFailure, where + ": CUDA says " + cudaGetErrorString(code)};
}

class NcclCollective final : public Collective {
 public:
  NcclCollective(int rank, int size, const NcclCollectiveOptions& options)
      : rank_(rank),
        size_(size),
        options_(options),
        stream_(static_cast<cudaStream_t>(options.stream)) {}

  ~NcclCollective() override {
    if (comm_ != nullptr) {
      // Finalize is a call like any other: a peer that never comes must not hang the destructor.
      if (poll("finalize", ncclCommFinalize(comm_))) ncclCommDestroy(comm_);
    }
    if (scratch_ != nullptr) cudaFree(scratch_);
  }

  Result<void> create(const ncclUniqueId& id) {
    if (auto code = cudaSetDevice(options_.device); code != cudaSuccess)
      return fail(cuda_error("device " + std::to_string(options_.device), code));
    if (auto code = cudaMalloc(&scratch_, static_cast<size_t>(size_) + 1); code != cudaSuccess)
      return fail(cuda_error("barrier buffer on device " + std::to_string(options_.device), code));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return poll("create", ncclCommInitRankConfig(&comm_, size_, id, rank_, &config));
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Result<void> broadcast(std::span<std::byte> data, int root) override {
    TAILOR_TRY(check_root("broadcast", root, size_));
    TAILOR_TRY(check_bytes("broadcast", data.size()));
    return call("broadcast", [&] {
      return ncclBroadcast(data.data(), data.data(), data.size(), ncclUint8, root, comm_, stream_);
    });
  }

  Result<void> all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    TAILOR_TRY(check_gathered_sizes("all_gather", mine.size(), out.size(), size_));
    return call("all_gather", [&] {
      return ncclAllGather(mine.data(), out.data(), mine.size(), ncclUint8, comm_, stream_);
    });
  }

  Result<void> gather(std::span<const std::byte> mine, std::span<std::byte> out,
                      int root) override {
    TAILOR_TRY(check_root("gather", root, size_));
    TAILOR_TRY(check_bytes("gather", mine.size()));
    if (rank_ == root) TAILOR_TRY(check_gathered_sizes("gather", mine.size(), out.size(), size_));
    return call("gather", [&] {
      ncclGroupStart();
      ncclSend(mine.data(), mine.size(), ncclUint8, root, comm_, stream_);
      for (int r = 0; r < size_ && rank_ == root; ++r)
        ncclRecv(out.data() + static_cast<size_t>(r) * mine.size(), mine.size(), ncclUint8, r,
                 comm_, stream_);
      return ncclGroupEnd();
    });
  }

  Result<void> barrier() override {
    auto* bytes = static_cast<std::byte*>(scratch_);
    TAILOR_TRY(call("barrier", [&] {
      return ncclAllGather(bytes + size_, bytes, 1, ncclUint8, comm_, stream_);
    }));
    return options_.wait_for_data ? Result<void>() : wait_for_stream("barrier");
  }

 private:
  Result<void> call(const char* operation, const std::function<ncclResult_t()>& start) {
    if (broken_) return fail_with("the group is broken", *broken_);
    ++sequence_;
    if (auto code = cudaSetDevice(options_.device); code != cudaSuccess)
      return abort(cuda_error(operation, code));
    TAILOR_TRY(poll(operation, start()));
    return options_.wait_for_data ? wait_for_stream(operation) : Result<void>();
  }

  /// Until NCCL has put the work into the stream.
  Result<void> poll(const char* operation, ncclResult_t code) {
    const Time started = now();
    while (code == ncclInProgress) {
      if (now() - started > options_.deadline) return abort(timed_out(operation));
      sched_yield();
      ncclResult_t state = ncclInProgress;
      const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
      code = asked == ncclSuccess ? state : asked;
    }
    if (code == ncclSuccess) return {};
    const char* detail = ncclGetLastError(comm_);
    std::string text = std::string(operation) + ": NCCL says " + ncclGetErrorString(code);
    if (detail != nullptr && *detail != '\0') text += std::string(" (") + detail + ")";
    return abort(Error{ErrorCode::kDeviceFailure, std::move(text)});
  }

  /// Until the stream has run dry.
  Result<void> wait_for_stream(const char* operation) {
    const Time started = now();
    for (;;) {
      const cudaError_t code = cudaStreamQuery(stream_);
      if (code == cudaSuccess) return {};
      if (code != cudaErrorNotReady) return abort(cuda_error(operation, code));
      ncclResult_t state = ncclSuccess;
      if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess ||
          (state != ncclSuccess && state != ncclInProgress))
        return poll(operation, state == ncclSuccess ? ncclInternalError : state);
      if (now() - started > options_.deadline) return abort(timed_out(operation));
      sched_yield();
    }
  }

  Error timed_out(const char* operation) const {
    std::vector<int> others;  // NCCL does not tell which of them is late
    for (int r = 0; r < size_; ++r)
      if (r != rank_) others.push_back(r);
    Error error = timeout_error(operation, sequence_, rank_, size_, others, options_.deadline);
    error.message += " (NCCL does not tell which)";
    return error;
  }

  Unexpected abort(Error error) {
    if (comm_ != nullptr) ncclCommAbort(comm_);
    comm_ = nullptr;
    broken_ = error;
    return fail(std::move(error));
  }

  const int rank_;
  const int size_;
  const NcclCollectiveOptions options_;
  const cudaStream_t stream_;
  ncclComm_t comm_ = nullptr;  // null before create() and after abort()
  void* scratch_ = nullptr;    // device, size + 1 bytes: what barrier moves
  uint64_t sequence_ = 0;
  std::optional<Error> broken_;
};

}  // namespace

int nccl_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::vector<std::array<uint8_t, 16>> cuda_device_ids() {
  std::vector<std::array<uint8_t, 16>> out(static_cast<size_t>(nccl_device_count()));
  for (size_t i = 0; i < out.size(); ++i) {
    cudaDeviceProp found{};
    cudaGetDeviceProperties(&found, static_cast<int>(i));
    std::memcpy(out[i].data(), found.uuid.bytes, out[i].size());
  }
  return out;
}

Result<std::unique_ptr<Collective>> make_nccl_collective(Collective& bootstrap,
                                                         const NcclCollectiveOptions& options) {
  // Rank 0's failure to make an id is told to the others by the same broadcast: nobody waits for a
  // rank that left.
  struct Offer {
    ncclUniqueId id{};
    int code = ncclSuccess;
  } offer;
  if (bootstrap.rank() == 0) offer.code = ncclGetUniqueId(&offer.id);
  TAILOR_TRY(bootstrap.broadcast(std::as_writable_bytes(std::span(&offer, 1)), 0));
  if (offer.code != ncclSuccess)
    return fail(ErrorCode::kDeviceFailure,
                std::string("unique id: NCCL says ") +
                    ncclGetErrorString(static_cast<ncclResult_t>(offer.code)));
  auto made = std::make_unique<NcclCollective>(bootstrap.rank(), bootstrap.size(), options);
  TAILOR_TRY(made->create(offer.id));
  return std::unique_ptr<Collective>(std::move(made));
}

}  // namespace tailor::comm
