// The fields of every message, listed once: name of the message, its number in a variant that
// travels, and for each field number, name and member. Wire (base/wire.h), event log, describe(),
// the byte bounds of queues and the random values of tests all walk these lists, so that none of
// them can forget a field. proto/control.proto says the same to other programs;
// tests/comm/link_proto_test.cc compares the two.
//
// A number is never given to another field. A field that a peer does not send keeps its default;
// one that a peer does not know is skipped.
#pragma once

#include <tuple>
#include <type_traits>

#include "base/messages.h"

namespace tailor {

enum class Layout : uint8_t {
  kPlain,
  kColumns,  ///< a list of messages of numbers: a packed list per field, not a message per entry
};

template <uint32_t Number, auto Member, Layout L = Layout::kPlain>
struct Field {
  static constexpr uint32_t number = Number;
  static constexpr Layout layout = L;
  const char* name;

  template <class M>
  static constexpr auto& of(M& message) {
    return message.*Member;
  }
};

/// Specialised for each message: `name`, `number` (0: in no variant) and `list`, a tuple of Field.
template <class M>
struct Fields;

template <class M>
concept Listed = requires {
  Fields<std::remove_const_t<M>>::list;
};

/// Calls f(field, value) for each field of `message`, in the order of the list.
template <Listed M, class F>
constexpr void for_each_field(M& message, F&& f) {
  std::apply([&](const auto&... field) { (f(field, field.of(message)), ...); },
             Fields<std::remove_const_t<M>>::list);
}

// clang-format off
#define TAILOR_MESSAGE(message, message_number)             \
  using M = message;                                        \
  static constexpr const char* name = #message;             \
  static constexpr uint32_t number = message_number;
#define F(field_number, member) Field<field_number, &M::member>{#member}
#define C(field_number, member) Field<field_number, &M::member, Layout::kColumns>{#member}

// ---- values inside messages ----

template <> struct Fields<LengthLaw> {
  TAILOR_MESSAGE(LengthLaw, 0)
  static constexpr auto list = std::tuple{F(1, kind), F(2, mu), F(3, sigma), F(4, nu), F(5, low),
      F(6, high), F(7, bins)};
};
template <> struct Fields<Error> {
  TAILOR_MESSAGE(Error, 0)
  static constexpr auto list = std::tuple{F(1, code), F(2, message)};
};
template <> struct Fields<SamplingParams> {
  TAILOR_MESSAGE(SamplingParams, 0)
  static constexpr auto list = std::tuple{F(1, temperature), F(2, top_k), F(3, top_p),
      F(4, min_p), F(5, repetition_penalty), F(6, presence_penalty), F(7, frequency_penalty),
      F(8, logit_bias), F(9, seed), F(10, n), F(11, max_tokens), F(12, min_tokens),
      F(13, ignore_eos), F(14, stop), F(15, stop_token_ids), F(16, include_stop_in_output),
      F(17, logprobs), F(18, skip_special_tokens)};
};
/// Without its id, which the Dispatch carries, and its arrival: a time means nothing elsewhere.
template <> struct Fields<Request> {
  TAILOR_MESSAGE(Request, 0)
  static constexpr auto list = std::tuple{F(2, prompt), F(3, sampling), F(4, priority),
      F(5, tenant), F(6, deadline)};
};
template <> struct Fields<ReplicaInfo> {
  TAILOR_MESSAGE(ReplicaInfo, 0)
  static constexpr auto list = std::tuple{F(1, protocol_version), F(2, model_fingerprint),
      F(3, arithmetic_version), F(4, engine), F(5, tp_size), F(6, slots), F(7, block_tokens),
      F(8, num_blocks), F(9, max_context), F(10, vocab_size), F(11, host), F(12, pid)};
};
template <> struct Fields<TokenLogprob> {
  TAILOR_MESSAGE(TokenLogprob, 0)
  static constexpr auto list = std::tuple{F(1, token), F(2, logprob)};
};
template <> struct Fields<LogprobEntry> {
  TAILOR_MESSAGE(LogprobEntry, 0)
  static constexpr auto list = std::tuple{F(1, chosen), F(2, top)};
};
template <> struct Fields<Envelope> {
  TAILOR_MESSAGE(Envelope, 0)
  static constexpr auto list = std::tuple{F(1, replica), F(2, epoch), F(3, sequence)};
};

// ---- commands ----

template <> struct Fields<Welcome> {
  TAILOR_MESSAGE(Welcome, 10)
  static constexpr auto list = std::tuple{};
};
template <> struct Fields<Dispatch> {
  TAILOR_MESSAGE(Dispatch, 11)
  static constexpr auto list = std::tuple{F(1, request), F(2, attempt), F(3, samples),
      F(4, prompt_tokens), F(5, max_tokens)};
};
template <> struct Fields<CancelRequest> {
  TAILOR_MESSAGE(CancelRequest, 12)
  static constexpr auto list = std::tuple{F(1, request), F(2, attempt)};
};
template <> struct Fields<Drain> {
  TAILOR_MESSAGE(Drain, 13)
  static constexpr auto list = std::tuple{};
};
template <> struct Fields<Shutdown> {
  TAILOR_MESSAGE(Shutdown, 14)
  static constexpr auto list = std::tuple{F(1, cluster_stops)};
};
// Kept for: Recall 15, Pause 16, Resume 17, Rank 18, Migrate 19.
template <> struct Fields<Predict> {
  TAILOR_MESSAGE(Predict, 20)
  static constexpr auto list = std::tuple{F(1, request), F(2, prompt), F(3, max_tokens)};
};
template <> struct Fields<DispatchPayload> {
  TAILOR_MESSAGE(DispatchPayload, 30)
  static constexpr auto list = std::tuple{F(1, request), F(2, generated)};
};

// ---- reports ----

template <> struct Fields<Hello> {
  TAILOR_MESSAGE(Hello, 10)
  static constexpr auto list = std::tuple{F(1, info)};
};
template <> struct Fields<SequenceProgress> {
  TAILOR_MESSAGE(SequenceProgress, 0)
  static constexpr auto list = std::tuple{F(1, request), F(2, sample), F(3, attempt),
      F(4, first_index), F(5, num_tokens), F(6, finish)};
};
template <> struct Fields<PrefillDone> {
  TAILOR_MESSAGE(PrefillDone, 0)
  static constexpr auto list = std::tuple{F(1, request), F(2, attempt), F(3, cached_tokens)};
};
template <> struct Fields<SequencePreempted> {
  TAILOR_MESSAGE(SequencePreempted, 0)
  static constexpr auto list = std::tuple{F(1, request), F(2, sample), F(3, attempt),
      F(4, tokens_lost)};
};
template <> struct Fields<LawProbed> {
  TAILOR_MESSAGE(LawProbed, 0)
  static constexpr auto list = std::tuple{F(1, request), F(2, attempt), F(3, sample),
      F(4, generated), F(5, law)};
};
template <> struct Fields<StepReport> {
  TAILOR_MESSAGE(StepReport, 11)
  static constexpr auto list = std::tuple{F(1, step), F(2, applied_seq), F(3, step_time),
      F(4, forward_time), F(5, sample_time), F(6, prefill_tokens), F(7, decode_tokens),
      F(8, running_sequences), F(9, free_blocks), C(10, progress), C(11, prefills),
      C(12, preempted), F(13, laws)};
};
template <> struct Fields<ProgressText> {
  TAILOR_MESSAGE(ProgressText, 0)
  static constexpr auto list = std::tuple{F(1, offset), F(2, bytes), F(3, num_logprobs)};
};
template <> struct Fields<SequenceEnd> {
  TAILOR_MESSAGE(SequenceEnd, 0)
  static constexpr auto list = std::tuple{F(1, entry), F(2, stop_match), F(3, error)};
};
template <> struct Fields<StepPayload> {
  TAILOR_MESSAGE(StepPayload, 30)
  static constexpr auto list = std::tuple{F(1, token_ids), C(2, texts), F(3, text),
      F(4, logprobs), F(5, ends)};
};
template <> struct Fields<Drained> {
  TAILOR_MESSAGE(Drained, 12)
  static constexpr auto list = std::tuple{};
};
template <> struct Fields<Heartbeat> {
  TAILOR_MESSAGE(Heartbeat, 13)
  static constexpr auto list = std::tuple{F(1, rank), F(2, progress), F(3, busy)};
};
// Kept for: MigrateReady 14, MigrateCommitted 15, MigrateAborted 16.
template <> struct Fields<PredictorHello> {
  TAILOR_MESSAGE(PredictorHello, 17)
  static constexpr auto list = std::tuple{F(1, name), F(2, encoder), F(3, head), F(4, population),
      F(5, version), F(6, pid)};
};
template <> struct Fields<Predicted> {
  TAILOR_MESSAGE(Predicted, 18)
  static constexpr auto list = std::tuple{F(1, request), F(2, law)};
};
#undef TAILOR_MESSAGE
#undef F
#undef C
// clang-format on

}  // namespace tailor
