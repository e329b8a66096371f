// LengthProbe: what the served model's own hidden state says of the answer's length, once at the
// end of a prompt and again every 32 generated tokens. Two small heads (predict/length_head.h),
// either of which may be missing; they are used only for the model they were trained on. Owner: the
// leader's main thread. Cost: a few thousand multiply-adds a law; nothing is allocated.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/length_law.h"
#include "base/result.h"
#include "parallel/engine.h"
#include "predict/length_head.h"
#include "worker/replica_core.h"

namespace tailor::worker {

class LengthProbe {
 public:
  static constexpr uint32_t kEvery = 32;  ///< generated tokens between two looks

  LengthProbe() = default;  ///< off
  /// From FOLDER/probe.safetensors and FOLDER/remaining.safetensors, those that are there.
  /// Errors: NotFound (neither), InvalidArgument (another model's: names both fingerprints; a size
  /// that does not fit), DataLoss.
  static Result<LengthProbe> load(const std::string& folder, const std::string& model_fingerprint,
                                  const parallel::EngineInfo& info);

  bool on() const { return !layers_.empty(); }
  const std::vector<int32_t>& layers() const { return layers_; }  ///< whose states it needs
  ProbeMarks marks() const { return {prompt_.has_value(), remaining_ ? kEvery : 0}; }
  /// The law of what is still to come after `generated` tokens (0: of the whole answer).
  /// `hidden` [layers, hidden_size].
  LengthLaw law(uint32_t generated, std::span<const float> hidden);

  std::string describe() const;

 private:
  Result<void> take(std::optional<predict::LengthHead>& head, const std::string& path,
                    const std::string& model_fingerprint, const parallel::EngineInfo& info);

  std::optional<predict::LengthHead> prompt_, remaining_;
  std::vector<int32_t> layers_;
  size_t hidden_size_ = 0;
  std::vector<float> input_;
};

}  // namespace tailor::worker
