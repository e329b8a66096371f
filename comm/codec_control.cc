#include "comm/codec_control.h"

#include <algorithm>

#include "base/payload.h"
#include "base/wire_reader.h"
#include "base/wire_writer.h"

namespace tailor::comm {
namespace {

// Fields of the two envelopes beside their messages, whose numbers are those of base/fields.h.
constexpr uint32_t kVersionField = 1, kEnvelopeField = 2, kPayloadField = 30;

Unexpected not_understood(const char* what) {
  return fail(ErrorCode::kProtocol, std::string("bytes that are not a ") + what + " of version " +
                                        std::to_string(kControlProtocolVersion));
}

Unexpected other_version(uint32_t found) {
  return fail(ErrorCode::kProtocol, "this process speaks control protocol version " +
                                        std::to_string(kControlProtocolVersion) +
                                        ", its peer version " + std::to_string(found) +
                                        "; start both from one build");
}

/// Reads `bytes` field by field: `take(field, type, reader)` says whether it knew the field.
/// False when the bytes are no message; `version` is what they say of themselves.
template <class Take>
bool read(std::string_view bytes, uint32_t& version, Take&& take) {
  WireReader in(bytes);
  uint32_t field = 0;
  WireType type{};
  while (in.next(field, type)) {
    if (field == kVersionField)
      in.number(type, version);
    else if (!take(field, type, in))
      in.skip(type);
  }
  return in.good();
}

bool whole(const Dispatch& dispatch, const DispatchPayload& payload) {
  return fits(dispatch, payload) && payload.request->prompt.size() == dispatch.prompt_tokens &&
         payload.request->priority <= WireEnum<PriorityClass>::last;
}

/// Every part belongs to an entry, and no entry claims more than is there.
bool whole(const StepReport& report, const StepPayload& payload) {
  if (payload.texts.size() != report.progress.size()) return false;
  uint64_t tokens = 0, bytes = 0, logprobs = 0;
  for (size_t i = 0; i < report.progress.size(); ++i) {
    const uint32_t entry_tokens = report.progress[i].num_tokens;
    const ProgressText& text = payload.texts[i];
    if (text.num_logprobs != 0 && text.num_logprobs != entry_tokens) return false;
    tokens += entry_tokens;
    bytes += text.bytes;
    logprobs += text.num_logprobs;
  }
  const auto names_an_entry = [&](const SequenceEnd& end) {
    return end.entry < report.progress.size();
  };
  const auto by_entry = [](const SequenceEnd& a, const SequenceEnd& b) {
    return a.entry >= b.entry;
  };
  return tokens == payload.token_ids.size() && bytes == payload.text.size() &&
         logprobs == payload.logprobs.size() &&
         std::all_of(payload.ends.begin(), payload.ends.end(), names_an_entry) &&
         std::adjacent_find(payload.ends.begin(), payload.ends.end(), by_entry) ==
             payload.ends.end();
}

}  // namespace

// ---- commands ----

std::string encode(const CommandFrame& frame) {
  std::string bytes;
  WireWriter out(bytes);
  out.number(kVersionField, kControlProtocolVersion);
  out.message(kEnvelopeField, frame.to.envelope);
  out.alternative(frame.to.command);
  if (std::holds_alternative<Dispatch>(frame.to.command)) out.message(kPayloadField, frame.payload);
  return bytes;
}

Result<CommandFrame> decode_command(std::string_view bytes) {
  CommandFrame frame;
  uint32_t version = 0, command = 0;
  const bool good = read(bytes, version, [&](uint32_t field, WireType type, WireReader& in) {
    if (field == kEnvelopeField) {
      in.message(type, frame.to.envelope);
    } else if (field == kPayloadField) {
      in.message(type, frame.payload);
    } else if (in.alternative(field, type, frame.to.command)) {
      command = field;
    } else {
      return false;
    }
    return true;
  });
  if (!good) return not_understood("command");
  if (version != kControlProtocolVersion) return other_version(version);
  if (command == 0) return not_understood("command");
  if (const auto* dispatch = std::get_if<Dispatch>(&frame.to.command)) {
    if (!whole(*dispatch, frame.payload)) return not_understood("command");
    Request request = *frame.payload.request;
    request.id = dispatch->request;
    frame.payload.request = std::make_shared<const Request>(std::move(request));
  }
  return frame;
}

// ---- reports ----

std::string encode(const ReportFrame& frame) {
  std::string bytes;
  WireWriter out(bytes);
  out.number(kVersionField, kControlProtocolVersion);
  out.message(kEnvelopeField, frame.from.envelope);
  out.alternative(frame.from.report);
  if (std::holds_alternative<StepReport>(frame.from.report))
    out.message(kPayloadField, frame.payload);
  return bytes;
}

std::string encode(const PredictorReport& report) {
  std::string bytes;
  WireWriter out(bytes);
  out.number(kVersionField, kControlProtocolVersion);
  out.alternative(report);
  return bytes;
}

Result<ControlReport> decode_control(std::string_view bytes) {
  ReportFrame frame;
  PredictorReport advice;
  uint32_t version = 0;
  enum class From { kNobody, kWorker, kPredictor } from = From::kNobody;
  const bool good = read(bytes, version, [&](uint32_t field, WireType type, WireReader& in) {
    if (field == kEnvelopeField) {
      in.message(type, frame.from.envelope);
    } else if (field == kPayloadField) {
      in.message(type, frame.payload);
    } else if (in.alternative(field, type, frame.from.report)) {
      from = From::kWorker;
    } else if (in.alternative(field, type, advice)) {
      from = From::kPredictor;
    } else {
      return false;
    }
    return true;
  });
  if (!good) return not_understood("report");
  if (version != kControlProtocolVersion) return other_version(version);
  switch (from) {
    case From::kNobody:
      return not_understood("report");
    case From::kPredictor: {
      const auto* hello = std::get_if<PredictorHello>(&advice);
      if (!well_formed(hello ? hello->population : std::get<Predicted>(advice).law))
        return not_understood("report");
      return ControlReport(std::move(advice));
    }
    case From::kWorker:
      break;
  }
  if (auto* step = std::get_if<StepReport>(&frame.from.report)) {
    if (!whole(*step, frame.payload)) return not_understood("report");
    // A law that is none costs itself only, never the tokens of the report it rides on.
    std::erase_if(step->laws, [](const LawProbed& probed) { return !well_formed(probed.law); });
  }
  return ControlReport(std::move(frame));
}

Result<ReportFrame> decode_report(std::string_view bytes) {
  TAILOR_ASSIGN(ControlReport report, decode_control(bytes));
  if (auto* worker = std::get_if<ReportFrame>(&report)) return std::move(*worker);
  return not_understood("worker's report");
}

// ---- the predictor's questions, the doorbell ----

std::string encode(const Predict& question) {
  std::string bytes;
  WireWriter out(bytes);
  out.number(kVersionField, kControlProtocolVersion);
  out.message(Fields<Predict>::number, question);
  return bytes;
}

Result<Predict> decode_predict(std::string_view bytes) {
  Predict question;
  uint32_t version = 0;
  bool asked = false;
  const bool good = read(bytes, version, [&](uint32_t field, WireType type, WireReader& in) {
    if (field != Fields<Predict>::number || type != WireType::kBytes) return false;
    in.message(type, question);
    asked = true;
    return true;
  });
  if (!good) return not_understood("question");
  if (version != kControlProtocolVersion) return other_version(version);
  if (!asked) return not_understood("question");
  return question;
}

std::string encode(const DoorbellWord& word) {
  std::string bytes;
  WireWriter out(bytes);
  out.number(kVersionField, kControlProtocolVersion);
  out.number(2, word.rank);
  out.number(3, word.rings);
  return bytes;
}

Result<DoorbellWord> decode_doorbell(std::string_view bytes) {
  DoorbellWord word;
  uint32_t version = 0;
  const bool good = read(bytes, version, [&](uint32_t field, WireType type, WireReader& in) {
    if (field == 2)
      in.number(type, word.rank);
    else if (field == 3)
      in.number(type, word.rings);
    return field == 2 || field == 3;
  });
  if (!good) return not_understood("doorbell word");
  if (version != kControlProtocolVersion) return other_version(version);
  return word;
}

}  // namespace tailor::comm
