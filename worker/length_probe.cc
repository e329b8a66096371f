#include "worker/length_probe.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/model_stamp.h"

namespace tailor::worker {

Result<LengthProbe> LengthProbe::load(const std::string& folder,
                                      const std::string& model_fingerprint,
                                      const parallel::EngineInfo& info) {
  LengthProbe out;
  out.hidden_size_ = static_cast<size_t>(info.hidden_size);
  TAILOR_TRY(out.take(out.prompt_, folder + "/probe.safetensors", model_fingerprint, info));
  TAILOR_TRY(out.take(out.remaining_, folder + "/remaining.safetensors", model_fingerprint, info));
  if (!out.on())
    return fail(ErrorCode::kNotFound,
                folder + " has neither probe.safetensors nor remaining.safetensors");
  std::sort(out.layers_.begin(), out.layers_.end());
  out.layers_.erase(std::unique(out.layers_.begin(), out.layers_.end()), out.layers_.end());
  out.input_.resize(out.hidden_size_ + 1);
  return out;
}

Result<void> LengthProbe::take(std::optional<predict::LengthHead>& head, const std::string& path,
                               const std::string& model_fingerprint,
                               const parallel::EngineInfo& info) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  TAILOR_ASSIGN(auto loaded, predict::LengthHead::load(path));
  const predict::HeadInfo& its = loaded.info();
  if (its.model_fingerprint != model_fingerprint)
    return fail(ErrorCode::kInvalidArgument,
                stamp_misfit(path, its.model_fingerprint, model_fingerprint));
  const int64_t wanted = info.hidden_size + (its.takes_generated ? 1 : 0);
  if (its.layer < 1 || its.layer > info.num_layers || its.input_size != wanted)
    return fail(ErrorCode::kInvalidArgument,
                path + ": layer " + std::to_string(its.layer) + " with " +
                    std::to_string(its.input_size) + " inputs, the model has " +
                    std::to_string(info.num_layers) + " layers of " + std::to_string(wanted));
  layers_.push_back(its.layer);
  head.emplace(std::move(loaded));
  return {};
}

LengthLaw LengthProbe::law(uint32_t generated, std::span<const float> hidden) {
  const predict::LengthHead& head = generated == 0 ? *prompt_ : *remaining_;
  const auto place = std::find(layers_.begin(), layers_.end(), head.info().layer);
  const auto values =
      hidden.subspan(static_cast<size_t>(place - layers_.begin()) * hidden_size_, hidden_size_);
  std::copy(values.begin(), values.end(), input_.begin());
  input_.back() = std::log1p(static_cast<float>(generated));
  return head.predict(
      std::span<const float>(input_).first(static_cast<size_t>(head.info().input_size)));
}

std::string LengthProbe::describe() const {
  std::string out;
  if (prompt_) out = "of the answer after layer " + std::to_string(prompt_->info().layer);
  if (remaining_)
    out += (out.empty() ? "" : ", ") + std::string("of what is to come after layer ") +
           std::to_string(remaining_->info().layer);
  return out;
}

}  // namespace tailor::worker
