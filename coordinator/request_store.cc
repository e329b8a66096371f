#include "coordinator/request_store.h"

#include <algorithm>
#include <utility>

#include "base/bytes_held.h"
#include "base/check.h"

namespace tailor::coordinator {
namespace {

/// What a request costs in tables and books, the core's among them, about.
constexpr size_t kInTables = 512;
constexpr size_t kMaxTokensPerChunk = 4096;

size_t bytes_of(const LogprobEntry& entry) { return sizeof entry + bytes_outside(entry); }

/// The largest cut <= `limit` that does not split a UTF-8 character of `text` read from `from`.
size_t whole_characters(const std::string& text, size_t from, size_t limit) {
  if (from + limit >= text.size()) return text.size() - from;
  size_t cut = limit;
  while (cut > 0 && (static_cast<unsigned char>(text[from + cut]) & 0xC0) == 0x80) --cut;
  return cut == 0 ? limit : cut;
}

}  // namespace

uint64_t most_answer_bytes(const SamplingParams& sampling) {
  const uint64_t logprobs =
      sampling.logprobs < 0 ? 0
                            : sizeof(LogprobEntry) + 16 +
                                  static_cast<uint64_t>(sampling.logprobs) * sizeof(TokenLogprob);
  return static_cast<uint64_t>(sampling.n) * static_cast<uint64_t>(sampling.max_tokens) *
         (32 + logprobs);
}

// ---- one request ----

api::Accepted StoredRequest::accepted() const {
  return {std::string(name()), request->prompt, request->sampling.seed,
          static_cast<uint32_t>(request->sampling.max_tokens), std::string(token())};
}

std::vector<std::vector<TokenId>> StoredRequest::generated() const {
  std::vector<std::vector<TokenId>> tokens;
  for (const Sample& sample : samples_) tokens.push_back(sample.tokens);
  return tokens;
}

StreamCursor StoredRequest::cursor(const std::vector<uint32_t>& from_token) const {
  StreamCursor cursor;
  for (size_t s = 0; s < samples_.size(); ++s) {
    StreamCursor::Place place;
    if (s < from_token.size())
      place.token = std::min(from_token[s], static_cast<uint32_t>(samples_[s].tokens.size()));
    // The last report that began at or before that token: its text may repeat a little, never miss
    // any.
    const auto& marks = samples_[s].marks;
    const auto mark = std::upper_bound(
        marks.begin(), marks.end(), place.token,
        [](uint32_t token, const StreamCursor::Place& m) { return token < m.token; });
    if (mark != marks.begin()) place.text = std::prev(mark)->text;
    cursor.place(s) = place;
  }
  return cursor;
}

size_t StoredRequest::read(StreamCursor& cursor, size_t max_bytes,
                           std::vector<api::ServerEvent>& out) const {
  size_t taken = 0;
  for (uint32_t s = 0; s < samples_.size() && taken < max_bytes; ++s) {
    const Sample& sample = samples_[s];
    StreamCursor::Place& place = cursor.place(s);
    while (taken < max_bytes &&
           (place.token < sample.tokens.size() || place.text < sample.text.size())) {
      auto& chunk =
          std::get<api::TokenChunk>(out.emplace_back(std::in_place_type<api::TokenChunk>));
      chunk.request_id = name();
      chunk.sample = s;
      chunk.first_index = place.token;
      chunk.text_offset = place.text;
      // Text goes first: whoever has a token then has all text that came before it, and can resume
      // by tokens alone.
      size_t bytes = 64;
      const size_t room = max_bytes - taken;
      const size_t text = whole_characters(sample.text, place.text,
                                           std::max<size_t>(room > bytes ? room - bytes : 0, 8));
      chunk.text.assign(sample.text, place.text, text);
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
    }
  }
  return taken;
}

bool StoredRequest::read_up(const StreamCursor& cursor) const {
  for (size_t s = 0; s < samples_.size(); ++s) {
    const StreamCursor::Place place = cursor.place(s);
    if (place.token < samples_[s].tokens.size() || place.text < samples_[s].text.size())
      return false;
  }
  return true;
}

// ---- all of them ----

StoredRequest& RequestStore::open(uint32_t slot, Opening opening) {
  if (slot >= live_.size()) live_.resize(slot + 1);
  TAILOR_CHECK(live_[slot] == nullptr, "a slot is one request's");
  // Not make_shared: whoever holds a weak pointer keeps nothing of the request itself.
  const Owner owner(new StoredRequest(std::move(opening.request), opening.name, opening.token));
  TAILOR_CHECK(requests_.insert(owner).second, "a name is one request's");
  owner->owner = opening.owner;
  owner->detached = opening.detached;
  owner->bytes_ =
      kInTables + sizeof(StoredRequest) + bytes_outside(owner->request) + owner->words_.size();
  live_bytes_ += owner->bytes_;
  live_[slot] = owner.get();
  return *owner;
}

StoredRequest& RequestStore::live(uint32_t slot) const {
  TAILOR_CHECK(slot < live_.size() && live_[slot] != nullptr, "a live request stands at its slot");
  return *live_[slot];
}

Result<void> RequestStore::append(StoredRequest& request, const SequenceProgress& progress,
                                  const ProgressParts& parts, uint32_t skip) {
  size_t grown = 0;
  if (request.samples_.empty()) {
    request.samples_.resize(request.num_samples());
    grown = request.num_samples() * (sizeof(StoredRequest::Sample) + sizeof(StreamCursor::Place));
    request.bytes_ += grown;
    live_bytes_ += std::exchange(grown, 0);
  }
  TAILOR_CHECK(!request.ended() && progress.sample < request.samples_.size(),
               "a report's entry has its live request");
  auto& sample = request.samples_[progress.sample];
  const auto tokens = parts.token_ids;
  TAILOR_CHECK(skip <= tokens.size() && progress.first_index + skip <= sample.tokens.size() &&
                   (skip == tokens.size() || progress.first_index + skip == sample.tokens.size()),
               "the core lets only joining tokens through");
  const bool with_logprobs = !parts.logprobs.empty();
  if (parts.text_offset > sample.text.size())
    return fail(ErrorCode::kDataLoss, "text is reported from byte " +
                                          std::to_string(parts.text_offset) + " on, but " +
                                          std::to_string(sample.text.size()) + " bytes are known");
  if (with_logprobs &&
      (parts.logprobs.size() != tokens.size() || sample.logprobs.size() != sample.tokens.size()))
    return fail(ErrorCode::kDataLoss, "the numbers of tokens and logprobs differ");

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
    if (parts.end) sample.said = std::make_unique<SequenceEnd>(std::move(*parts.end));
  }
  request.bytes_ += grown;
  live_bytes_ += grown;
  return {};
}

RequestStore::Forgotten RequestStore::end(uint32_t slot, FinishReason reason, Error error,
                                          Time now) {
  StoredRequest& request = live(slot);
  live_[slot] = nullptr;
  live_bytes_ -= request.bytes_;
  auto end = std::make_unique<api::Finished>();
  end->request_id = request.name();
  end->prompt_tokens = static_cast<uint32_t>(request.request->prompt.size());
  end->cached_tokens = request.cached_tokens.value_or(0);
  end->timings = request.timings;
  end->error = std::move(error);
  end->samples.resize(request.num_samples(), {.reason = reason});
  for (size_t s = 0; s < request.samples_.size(); ++s) {
    auto& sample = request.samples_[s];
    api::SampleResult& result = end->samples[s];
    result.completion_tokens = static_cast<uint32_t>(sample.tokens.size());
    if (sample.finish == FinishReason::kNone) continue;
    result.reason = sample.finish;
    if (!sample.said) continue;
    result.stop_match = std::move(sample.said->stop_match);
    if (end->error.code == ErrorCode::kOk && sample.finish == FinishReason::kFailed)
      end->error = std::move(sample.said->error);
    sample.said.reset();
  }
  request.bytes_ += api::bytes_held(*end);
  request.end_ = std::move(end);
  ended_bytes_ += request.bytes_;
  ended_.push_back({now, &request});
  Forgotten still_read;
  while (ended_.size() > options_.max_ended ||
         (ended_bytes_ > options_.max_ended_bytes && ended_.size() > 1))
    forget_oldest(still_read);
  return still_read;
}

RequestStore::Forgotten RequestStore::expire(Time now) {
  Forgotten still_read;
  while (!ended_.empty() && ended_.front().at + options_.keep <= now) forget_oldest(still_read);
  return still_read;
}

void RequestStore::forget_oldest(Forgotten& still_read) {
  const StoredRequest& oldest = *ended_.front().request;
  ended_bytes_ -= oldest.bytes_;
  const auto it = requests_.find(oldest.name());
  if (oldest.reader.client != StoredRequest::Reader::kNobody) still_read.push_back(*it);
  requests_.erase(it);
  ended_.pop_front();
}

StoredRequest* RequestStore::find(std::string_view name) const {
  const auto it = requests_.find(name);
  return it == requests_.end() ? nullptr : it->get();
}

void RequestStore::check_integrity() const {
  size_t live = 0, live_bytes = 0, ended_bytes = 0;
  for (const StoredRequest* request : live_) {
    if (!request) continue;
    ++live;
    live_bytes += request->bytes_;
    TAILOR_CHECK(!request->ended() && find(request->name()) == request,
                 "a live request is found by its name");
    for (const auto& sample : request->samples_)
      TAILOR_CHECK(sample.logprobs.empty() || sample.logprobs.size() == sample.tokens.size(),
                   "one logprob per token");
  }
  for (size_t i = 0; i < ended_.size(); ++i) {
    const StoredRequest& request = *ended_[i].request;
    ended_bytes += request.bytes_;
    TAILOR_CHECK(request.ended() && find(request.name()) == &request,
                 "an ended request is found by its name");
    TAILOR_CHECK(i == 0 || ended_[i - 1].at <= ended_[i].at, "the oldest goes first");
  }
  TAILOR_CHECK(live_bytes == live_bytes_ && ended_bytes == ended_bytes_, "bytes are counted");
  TAILOR_CHECK(live + ended_.size() == requests_.size(),
               "every request is live at one slot or has ended once");
  TAILOR_CHECK(ended_.size() <= options_.max_ended, "at most so many ended requests");
}

}  // namespace tailor::coordinator
