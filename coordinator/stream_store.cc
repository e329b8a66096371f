#include "coordinator/stream_store.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tailor::coordinator {
namespace {

constexpr size_t kStreamOverhead = 512;  // what a stream costs beside what it says, about
constexpr size_t kMaxTokensPerChunk = 4096;

size_t bytes_of(const LogprobEntry& entry) {
  return sizeof entry + entry.top.size() * sizeof(TokenLogprob);
}

/// The largest cut <= `limit` that does not split a UTF-8 character of `text` read from `from`.
size_t whole_characters(const std::string& text, size_t from, size_t limit) {
  if (from + limit >= text.size()) return text.size() - from;
  size_t cut = limit;
  while (cut > 0 && (static_cast<unsigned char>(text[from + cut]) & 0xC0) == 0x80) --cut;
  return cut == 0 ? limit : cut;
}

}  // namespace

void StreamStore::open(RequestId id, uint32_t samples, api::Accepted accepted, ClientId owner) {
  TAILOR_CHECK(!contains(id) && by_name_.count(accepted.request_id) == 0,
               "a stream is opened once");
  by_name_[accepted.request_id] = id;
  Stream& stream = streams_[id];
  stream.bytes = kStreamOverhead + accepted.prompt_token_ids.size() * sizeof(TokenId) +
                 accepted.request_id.size();
  stream.accepted = std::move(accepted);
  stream.owner = owner;
  stream.samples.resize(samples);
  live_bytes_ += stream.bytes;
}

Result<void> StreamStore::append(const SequenceProgress& progress, const ProgressParts& parts,
                                 uint32_t skip) {
  Stream& stream = streams_.at(progress.request);
  TAILOR_CHECK(!stream.ended && progress.sample < stream.samples.size(),
               "a report's entry has its live stream");
  Sample& sample = stream.samples[progress.sample];
  const auto tokens = parts.token_ids;
  TAILOR_CHECK(skip <= tokens.size() && progress.first_index + skip <= sample.tokens.size() &&
                   (skip == tokens.size() || progress.first_index + skip == sample.tokens.size()),
               "the core lets only joining tokens through");
  if (parts.text_offset > sample.text.size())
    return fail(ErrorCode::kDataLoss, "text is reported from byte " +
                                          std::to_string(parts.text_offset) + " on, but " +
                                          std::to_string(sample.text.size()) + " bytes are known");
  const bool with_logprobs = !parts.logprobs.empty();
  if (with_logprobs &&
      (parts.logprobs.size() != tokens.size() || sample.logprobs.size() != sample.tokens.size()))
    return fail(ErrorCode::kDataLoss, "the numbers of tokens and logprobs differ");

  size_t grown = 0;
  if (skip < tokens.size()) {
    if (sample.marks.empty() || sample.marks.back().text != sample.text.size()) {
      sample.marks.push_back({static_cast<uint32_t>(sample.tokens.size()), sample.text.size()});
      grown += sizeof(StreamCursor::Place);
    }
    sample.tokens.insert(sample.tokens.end(), tokens.begin() + skip, tokens.end());
    grown += (tokens.size() - skip) * sizeof(TokenId);
    if (with_logprobs)
      for (LogprobEntry& entry : parts.logprobs.subspan(skip)) {
        grown += bytes_of(entry);
        sample.logprobs.push_back(std::move(entry));
      }
  }
  if (const uint64_t end = parts.text_offset + parts.text.size(); end > sample.text.size()) {
    const size_t known = sample.text.size() - parts.text_offset;
    grown += parts.text.size() - known;
    sample.text.append(parts.text.substr(known));
  }
  if (progress.finish != FinishReason::kNone) {
    sample.finish = progress.finish;
    if (parts.end) {
      sample.stop_match = std::move(parts.end->stop_match);
      if (progress.finish == FinishReason::kFailed) sample.error = std::move(parts.end->error);
    }
  }
  stream.bytes += grown;
  live_bytes_ += grown;
  return {};
}

void StreamStore::close(RequestId id, FinishReason reason, Error error, uint32_t prompt_tokens,
                        const api::Timings& timings, Time now) {
  Stream& stream = streams_.at(id);
  TAILOR_CHECK(!stream.ended, "a stream ends once");
  stream.ended = true;
  api::Finished& end = stream.finished;
  end.request_id = stream.accepted.request_id;
  end.prompt_tokens = prompt_tokens;
  end.timings = timings;
  end.error = std::move(error);
  for (Sample& sample : stream.samples) {
    end.samples.push_back({sample.finish == FinishReason::kNone ? reason : sample.finish,
                           sample.stop_match, static_cast<uint32_t>(sample.tokens.size())});
    if (end.error.code == ErrorCode::kOk && sample.finish == FinishReason::kFailed)
      end.error = sample.error;
  }
  live_bytes_ -= stream.bytes;
  ended_bytes_ += stream.bytes;
  ended_.push_back({now, id});
  while (ended_.size() > options_.max_ended ||
         (ended_bytes_ > options_.max_ended_bytes && ended_.size() > 1))
    forget_oldest();
}

RequestId StreamStore::find(const std::string& request_id) const {
  const auto it = by_name_.find(request_id);
  return it == by_name_.end() ? RequestId{0} : it->second;
}

std::vector<std::vector<TokenId>> StreamStore::generated(RequestId id) const {
  std::vector<std::vector<TokenId>> tokens;
  for (const Sample& sample : streams_.at(id).samples) tokens.push_back(sample.tokens);
  return tokens;
}

StreamCursor StreamStore::cursor(RequestId id, const std::vector<uint32_t>& from_token) const {
  StreamCursor cursor;
  const auto& samples = streams_.at(id).samples;
  for (size_t s = 0; s < samples.size(); ++s) {
    StreamCursor::Place place;
    if (s < from_token.size())
      place.token = std::min(from_token[s], static_cast<uint32_t>(samples[s].tokens.size()));
    // The last report that began at or before that token: its text may repeat a little, never miss
    // any.
    const auto& marks = samples[s].marks;
    const auto mark = std::upper_bound(
        marks.begin(), marks.end(), place.token,
        [](uint32_t token, const StreamCursor::Place& m) { return token < m.token; });
    if (mark != marks.begin()) place.text = std::prev(mark)->text;
    cursor.samples.push_back(place);
  }
  return cursor;
}

size_t StreamStore::read(RequestId id, StreamCursor& cursor, size_t max_bytes,
                         std::vector<api::ServerEvent>& out) const {
  const Stream& stream = streams_.at(id);
  size_t taken = 0;
  for (uint32_t s = 0; s < stream.samples.size() && taken < max_bytes; ++s) {
    const Sample& sample = stream.samples[s];
    auto& place = cursor.samples.at(s);
    while (taken < max_bytes &&
           (place.token < sample.tokens.size() || place.text < sample.text.size())) {
      api::TokenChunk chunk;
      chunk.request_id = stream.accepted.request_id;
      chunk.sample = s;
      chunk.first_index = place.token;
      chunk.text_offset = place.text;
      // Text goes first: whoever has a token then has all text that came before it, and can resume
      // by tokens alone.
      size_t bytes = 64;
      const size_t room = max_bytes - taken;
      const size_t text = whole_characters(sample.text, place.text,
                                           std::max<size_t>(room > bytes ? room - bytes : 0, 8));
      chunk.text = sample.text.substr(place.text, text);
      bytes += text;
      uint32_t end = place.token;
      if (place.text + text == sample.text.size())
        while (end < sample.tokens.size() && end - place.token < kMaxTokensPerChunk &&
               (bytes < room || text == 0)) {
          bytes += sizeof(TokenId) + (sample.logprobs.empty() ? 0 : bytes_of(sample.logprobs[end]));
          ++end;
          if (bytes >= room) break;
        }
      chunk.token_ids.assign(sample.tokens.begin() + place.token, sample.tokens.begin() + end);
      if (!sample.logprobs.empty())
        chunk.logprobs.assign(sample.logprobs.begin() + place.token, sample.logprobs.begin() + end);
      place.token = end;
      place.text += text;
      taken += bytes;
      out.emplace_back(std::move(chunk));
    }
  }
  return taken;
}

bool StreamStore::read_up(RequestId id, const StreamCursor& cursor) const {
  const Stream& stream = streams_.at(id);
  for (size_t s = 0; s < stream.samples.size(); ++s)
    if (cursor.samples.at(s).token < stream.samples[s].tokens.size() ||
        cursor.samples[s].text < stream.samples[s].text.size())
      return false;
  return true;
}

void StreamStore::expire(Time now) {
  while (!ended_.empty() && ended_.front().at + options_.keep <= now) forget_oldest();
}

void StreamStore::forget_oldest() {
  const auto it = streams_.find(ended_.front().id);
  ended_bytes_ -= it->second.bytes;
  by_name_.erase(it->second.accepted.request_id);
  streams_.erase(it);
  ended_.pop_front();
}

void StreamStore::check_integrity() const {
  size_t live = 0, ended = 0, ended_count = 0;
  for (const auto& [id, stream] : streams_) {
    (stream.ended ? ended : live) += stream.bytes;
    ended_count += stream.ended;
    TAILOR_CHECK(find(stream.accepted.request_id) == id, "a stream is found by its name");
    for (const Sample& sample : stream.samples)
      TAILOR_CHECK(sample.logprobs.empty() || sample.logprobs.size() == sample.tokens.size(),
                   "one logprob per token");
  }
  TAILOR_CHECK(live == live_bytes_ && ended == ended_bytes_, "bytes are counted");
  TAILOR_CHECK(ended_count == ended_.size() && by_name_.size() == streams_.size(),
               "streams are listed once");
  TAILOR_CHECK(ended_.size() <= options_.max_ended, "at most so many ended streams");
}

}  // namespace tailor::coordinator
