#include "worker/move_runner.h"

namespace tailor::worker {

Result<void> MoveRunner::begin(std::span<const kv::BlockMove> moves) {
  if (open()) TAILOR_TRY(agree_about_open());
  if (moves.empty()) return {};
  if (store_ == nullptr)
    return fail(ErrorCode::kInvalidArgument, "a plan moves blocks, and this rank has no store");
  TAILOR_TRY(store_->begin(moves));
  begun_ += moves.size();
  return {};
}

Result<void> MoveRunner::agree_about_open() {
  const kv::MoveStatus mine = store_->status(agreed_);
  const bool alone = collective_ == nullptr || collective_->size() == 1;
  ranks_.assign(alone ? 1 : static_cast<size_t>(collective_->size()), mine);
  if (!alone)
    TAILOR_TRY(collective_->all_gather(std::as_bytes(std::span(&mine, 1)),
                                       std::as_writable_bytes(std::span(ranks_))));
  const kv::MoveStatus all = kv::agree(ranks_, agreed_);
  if (all.done > agreed_) events_.push_back(kv::MoveDone{all.done});
  if (all.failed != 0) events_.push_back(kv::MoveFailed{all.failed});
  agreed_ = all.failed != 0 ? all.failed : all.done;
  return {};
}

}  // namespace tailor::worker
