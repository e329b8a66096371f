#include "parallel/cuda/slot_state.h"

#include <algorithm>

#include "base/check.h"

namespace tailor::parallel::gpu {

SlotState slot_state(const Request& request, uint32_t sample, int64_t emitted,
                     const SlotLists& lists) {
  const SamplingParams& p = request.sampling;
  TAILOR_CHECK(p.logit_bias.size() <= lists.bias_ids.size() &&
                   p.logit_bias.size() <= lists.bias_values.size() &&
                   p.stop_token_ids.size() <= lists.stop_ids.size(),
               "a request's lists fit a slot");
  SlotState state;
  state.seed = p.seed;
  state.sample = sample;
  state.position = static_cast<int32_t>(static_cast<int64_t>(request.prompt.size()) + emitted);
  state.emitted = static_cast<int32_t>(emitted);
  state.min_tokens = p.min_tokens;
  state.top_k = p.top_k;
  state.logprobs = p.logprobs;
  state.temperature = p.temperature;
  state.top_p = p.top_p;
  state.min_p = p.min_p;
  state.repetition_penalty = p.repetition_penalty;
  state.presence_penalty = p.presence_penalty;
  state.frequency_penalty = p.frequency_penalty;
  state.ignore_eos = p.ignore_eos ? 1 : 0;
  for (const auto& [id, bias] : p.logit_bias) {
    const auto begin = lists.bias_ids.begin(), end = begin + state.num_biases;
    const auto at = std::find(begin, end, id) - begin;
    if (at == state.num_biases) {
      lists.bias_ids[static_cast<size_t>(at)] = id;
      lists.bias_values[static_cast<size_t>(at)] = 0;
      ++state.num_biases;
    }
    lists.bias_values[static_cast<size_t>(at)] += bias;
  }
  std::copy(p.stop_token_ids.begin(), p.stop_token_ids.end(), lists.stop_ids.begin());
  state.num_stops = static_cast<int32_t>(p.stop_token_ids.size());
  return state;
}

}  // namespace tailor::parallel::gpu
