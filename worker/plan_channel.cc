#include "worker/plan_channel.h"

#include <algorithm>
#include <cstring>
#include <span>

namespace tailor::worker {
namespace {

constexpr uint32_t kMagic = 0x504c4e31;  // "PLN1"
constexpr size_t kFirstBytes = 8192;

struct Header {
  uint32_t magic = kMagic;
  uint32_t kind = 0;
  int32_t exit_code = 0;
  uint32_t reserved = 0;
  uint64_t payload_bytes = 0;
};
constexpr size_t kInline = kFirstBytes - sizeof(Header);

}  // namespace

PlanChannel::PlanChannel(comm::Collective* collective, bool ahead)
    : collective_(collective), ahead_(ahead), message_(kFirstBytes) {}

Result<void> PlanChannel::send(const Plan& plan, const parallel::StepInput& input) {
  if (!has_followers()) return {};
  encoded_.clear();
  if (plan.kind == PlanKind::kStep) parallel::encode(input, encoded_);
  Header header{.kind = static_cast<uint32_t>(plan.kind),
                .exit_code = plan.exit_code,
                .payload_bytes = encoded_.size()};
  std::memcpy(message_.data(), &header, sizeof header);
  size_t first = std::min(encoded_.size(), kInline);
  if (first > 0) std::memcpy(message_.data() + sizeof header, encoded_.data(), first);
  TAILOR_TRY(collective_->broadcast(std::span(message_).first(kFirstBytes), 0));
  if (encoded_.size() > first)
    TAILOR_TRY(collective_->broadcast(std::span(encoded_).subspan(first), 0));
  return {};
}

Result<Plan> PlanChannel::receive(parallel::StepInput& input) {
  TAILOR_TRY(collective_->broadcast(std::span(message_).first(kFirstBytes), 0));
  Header header;
  std::memcpy(&header, message_.data(), sizeof header);
  if (header.magic != kMagic || header.kind < 1 ||
      header.kind > static_cast<uint32_t>(PlanKind::kLast) ||
      header.payload_bytes > (uint64_t{1} << 32))
    return fail(ErrorCode::kProtocol, "the leader's plan is not one of this version");
  size_t first = std::min<size_t>(header.payload_bytes, kInline);
  encoded_.assign(message_.begin() + sizeof header, message_.begin() + sizeof header + first);
  encoded_.resize(header.payload_bytes);
  if (header.payload_bytes > first)
    TAILOR_TRY(collective_->broadcast(std::span(encoded_).subspan(first), 0));
  Plan plan{.kind = static_cast<PlanKind>(header.kind), .exit_code = header.exit_code};
  if (plan.kind == PlanKind::kStep)
    TAILOR_TRY(parallel::decode(encoded_, input, ahead_ ? input.num_logits() : 0));
  return plan;
}

}  // namespace tailor::worker
