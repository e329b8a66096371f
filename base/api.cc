#include "base/api.h"

namespace tailor::api {

Sampling::Sampling(const SamplingParams& all)
    : AnswerParams(all),
      temperature(all.temperature),
      top_k(all.top_k),
      top_p(all.top_p),
      min_p(all.min_p),
      repetition_penalty(all.repetition_penalty) {}

SamplingParams Sampling::resolved(const SamplingDefaults& defaults) const {
  SamplingParams out;
  static_cast<AnswerParams&>(out) = *this;
  out.temperature = temperature.value_or(defaults.temperature);
  out.top_k = top_k.value_or(defaults.top_k);
  out.top_p = top_p.value_or(defaults.top_p);
  out.min_p = min_p.value_or(defaults.min_p);
  out.repetition_penalty = repetition_penalty.value_or(defaults.repetition_penalty);
  return out;
}

}  // namespace tailor::api
