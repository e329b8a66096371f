// The slots of running sequences on the device, and the drawing of their tokens: what
// parallel/sampler.h does on the host. A slot's state (request, counts of its tokens, place) is
// copied there when it is opened, in the order of the device's stream: a step that was submitted
// before draws from what was there. Ids, and log-probabilities where a request wants them, are all
// that comes back. Owner: the rank's main thread; on rank 0 only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "base/result.h"
#include "base/time.h"
#include "parallel/cuda/device.h"
#include "parallel/cuda/kernels.h"
#include "parallel/engine.h"

namespace tailor::parallel::gpu {

struct SlotsOptions {
  int32_t slots = 0;
  int64_t vocab_size = 0;
  int32_t max_context = 0;
  std::vector<TokenId> end_tokens;
  Duration deadline = seconds(60);
};

/// Pinned memory that one submission's tokens come back to.
struct DrawnRows {
  Memory memory;
  int32_t* tokens = nullptr;          ///< [slots]
  int32_t* status = nullptr;          ///< [slots], DrawStatus
  float* chosen_logprobs = nullptr;   ///< [slots]
  int32_t* top_ids = nullptr;         ///< [slots, kMaxLogprobs]
  float* top_logprobs = nullptr;      ///< [slots, kMaxLogprobs]
  std::vector<int32_t> num_logprobs;  ///< [rows that drew]: as the request asks; -1 = none
};

class Slots {
 public:
  /// Device memory that make() takes.
  static uint64_t bytes(const SlotsOptions& options);
  /// Errors: LimitExceeded, DeviceFailure.
  static Result<std::unique_ptr<Slots>> make(Device& device, SlotsOptions options);
  Result<DrawnRows> make_rows();

  /// Checked: closed, and there. Errors: DeviceFailure, Timeout.
  Result<void> open(const OpenSlot& open);
  /// Checked: open.
  void close(SlotId slot);
  /// Each is open, and draws once. Errors: InvalidArgument.
  Result<void> check_drawing(std::span<const SlotId> slots);

  /// Draws for `slots` from logits [slots.size(), vocab] on the device; `device_slots` = the same
  /// on the device. Results are in `out` when the stream has come there. drawn() is theirs, too.
  Result<void> draw(std::span<const SlotId> slots, const int32_t* device_slots, const float* logits,
                    DrawnRows& out);
  /// Device [slots]: what the last draw() drew.
  int32_t* drawn() const { return drawn_; }

 private:
  struct Slot {
    bool open = false;
    int32_t logprobs = -1;
    bool changes_logits = false;  // may, at some token
    uint64_t last_step = 0;       // in which it draws
  };
  /// Pinned memory for what one open() sends.
  struct Staged {
    Memory memory;
    OwnedEvent sent;
  };

  Slots(Device& device, SlotsOptions options) : device_(device), options_(std::move(options)) {}
  Result<void> reserve();

  Device& device_;
  const SlotsOptions options_;
  std::vector<Slot> slots_;
  uint64_t steps_ = 0;
  std::array<Staged, 2> staged_;
  size_t next_staged_ = 0;

  Memory memory_;  // of the device; all below lie in it
  SamplerState state_;
  int32_t* bias_ids_ = nullptr;
  float* bias_values_ = nullptr;
  int32_t* stop_ids_ = nullptr;
  int32_t* tokens_ = nullptr;  // [max_context]: of the slot that is opened
  int32_t* drawn_ = nullptr;
  Sampling sampling_;  // what is the same for every draw
};

}  // namespace tailor::parallel::gpu
