// RequestStore and ClientSessions together, driven at random as the loop and its doors drive them,
// beside a naive model: every client hears everything once, in order. The two share raw pointers
// (a client's lists name requests, a request names its reader's place), so what is driven is what
// could leave one dangling: slots and names are used again, answers are forgotten while somebody
// reads them, streams are taken by Resume, clients go, come back or leave their place to another.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>

#include "coordinator/client_sessions.h"
#include "coordinator/request_store.h"
#include "tests/coordinator/report_piece.h"

namespace tailor::coordinator {
namespace {

constexpr uint32_t kSlots = 7;
constexpr size_t kMaxEnded = 2;
constexpr Duration kKeep = seconds(30);
constexpr Duration kLease = seconds(10);

RequestStoreOptions keep_few() {
  RequestStoreOptions options;
  options.keep = kKeep;
  options.max_ended = kMaxEnded;
  return options;
}

class World {
 public:
  explicit World(uint64_t seed)
      : random_(seed), options_(draw_options()), store_(keep_few()), sessions_(options_) {
    for (uint32_t slot = 0; slot < kSlots; ++slot) free_slots_.push_back(kSlots - 1 - slot);
  }

  void step() {
    now_ += milliseconds(below(200));
    const uint64_t choice = below(100);
    if (choice < 12) submit(some_client());
    if (choice >= 12 && choice < 50) grow();
    if (choice >= 50 && choice < 57) end();
    if (choice >= 57 && choice < 65) resume(some_client());
    if (choice >= 65 && choice < 73) grant(some_client(), static_cast<uint32_t>(1 + below(3)));
    if (choice >= 73 && choice < 76) post_word(some_client());
    if (choice >= 76 && choice < 78) unreachable(some_client());
    if (choice == 78) pause();
    if (choice == 79) now_ += seconds(below(20));
    if (choice >= 80 && choice < 84) keep_house();
    if (choice >= 84) listen();
    check();
  }
  /// Whoever is there takes all that there is for him.
  void finish() {
    keep_house();
    while (!free_clients().empty()) heard(free_clients().front());
    for (uint64_t id = 1; id <= last_id_; ++id)
      if (answers_.count(id) && answers_[id].live) end(id);
    for (const uint64_t client : seats_) {
      heard(client);
      grant(client, 10'000);
    }
    for (int i = 0; i < 1000 && !testing::Test::HasFatalFailure(); ++i) listen();
    keep_house();  // who let too much pile up meanwhile
    for (const auto& [id, answer] : answers_) ASSERT_EQ(answer.reader, 0u) << answer.name;
    ASSERT_EQ(sessions_.attached(), 0u);
    ASSERT_FALSE(sessions_.more());
  }

  /// What has been seen, so that the test can tell that it has seen it.
  struct Seen {
    uint64_t chunks = 0, ends = 0, last_words = 0, forgotten_under_reading = 0, taken = 0;
    uint64_t slots_reused = 0, names_reused = 0, places_reused = 0, overflows = 0, partial = 0;
  };
  const Seen& seen() const { return seen_; }

 private:
  struct Sample {
    std::vector<TokenId> tokens;
    std::string text;
    std::vector<size_t> text_before;  // [tokens]: of the report that brought the token
    bool ended = false;
  };
  struct Answer {
    std::string name;
    uint32_t slot = 0;
    bool detached = false, live = true;
    std::vector<Sample> samples;
    Time ended_at;
    uint64_t reader = 0;  // 0: nobody
    std::vector<StreamCursor::Place> read;
    bool loose = false;  // it may have left its place among the changes: there was nothing to say
    bool read_up() const {
      for (size_t s = 0; s < samples.size(); ++s)
        if (read[s].token != samples[s].tokens.size() || read[s].text != samples[s].text.size())
          return false;
      return true;
    }
    bool owes() const { return !live || !read_up(); }
  };
  struct Client {
    Time heard;
    uint32_t credit = 0;
    bool reachable = true, overflowed = false;
    std::deque<std::string> posted;
    std::vector<uint64_t> changed;
  };

  uint64_t below(uint64_t limit) { return random_() % limit; }
  ClientSessionsOptions draw_options() {
    ClientSessionsOptions options;
    options.lease = kLease;
    options.initial_credit = static_cast<uint32_t>(below(3));
    options.max_message_bytes = 150 + below(1500);
    options.max_posted = 6 + below(20);
    return options;
  }

  // ---- clients ----

  std::vector<uint64_t> free_clients() const {
    std::vector<uint64_t> free;
    for (const uint64_t client : seats_)
      if (!clients_.count(client)) free.push_back(client);
    return free;
  }
  uint64_t some_client() {
    const uint64_t client = seats_[below(3)];
    heard(client);
    return client;
  }
  void heard(uint64_t id) {
    const auto [it, is_new] = clients_.try_emplace(id);
    Client& client = it->second;
    if (is_new) client.credit = options_.initial_credit;
    seen_.places_reused += is_new && gone_ > 0;
    client.heard = now_;
    sessions_.heard(ClientId{id}, now_);
    if (client.reachable) return;
    client.reachable = true;
    client.credit = options_.initial_credit;
    put(id, "G");
  }
  void grant(uint64_t id, uint32_t messages) {
    clients_[id].credit += messages;
    sessions_.grant(ClientId{id}, messages);
  }
  void unreachable(uint64_t id) {
    clients_[id].reachable = false;
    clients_[id].posted.clear();
    sessions_.unreachable(ClientId{id});
  }
  void pause() {
    const Duration pause = seconds(below(5));
    now_ += pause;
    for (auto& [id, client] : clients_) client.heard += pause;
    sessions_.forgive(pause);
  }
  void post_word(uint64_t client) {
    const std::string word = "w" + std::to_string(++words_);
    sessions_.post(ClientId{client}, api::Rejected{word, {ErrorCode::kInternal, {}}, {}});
    put(client, rejected(word, ErrorCode::kInternal));
  }
  void keep_house() {
    forget(store_.expire(now_));
    while (!ended_.empty() && answers_[ended_.front()].ended_at + kKeep <= now_) forget_oldest();

    std::map<uint64_t, std::vector<RequestId>> expected;
    for (const auto& [id, client] : clients_) {
      if (client.heard + kLease > now_ && !client.overflowed) continue;
      auto& cancel = expected[id];
      for (const auto& [request, answer] : answers_)
        if (answer.reader == id && answer.live && !answer.detached)
          cancel.push_back(RequestId{request});
    }
    const auto gone = sessions_.gone(now_);
    ASSERT_EQ(gone.size(), expected.size());
    for (const auto& one : gone) {
      ASSERT_EQ(expected.at(one.client.value), one.cancel);
      for (const RequestId request : one.cancel) end(request.value);
      check();
      leave(one.client);
    }
  }
  /// It is forgotten, and told its ends; its seat is another's, or its own when it comes back.
  void leave(ClientId id) {
    std::multiset<std::string> expected;
    if (clients_[id.value].reachable) expected.insert("G");
    for (auto& [request, answer] : answers_) {
      if (answer.reader != id.value) continue;
      answer.reader = 0;
      if (!answer.live && clients_[id.value].reachable) expected.insert("F " + answer.name);
    }
    std::multiset<std::string> told;
    for (const auto& event : sessions_.forget(id))
      if (const auto* end = std::get_if<api::Finished>(&event))
        told.insert("F " + end->request_id);
      else
        told.insert(words_of(event));
    ASSERT_EQ(told, expected);
    seen_.last_words += told.size();
    clients_.erase(id.value);
    ++gone_;
    if (below(2) == 0) *std::find(seats_.begin(), seats_.end(), id.value) = ++last_client_;
  }

  // ---- requests ----

  void submit(uint64_t client) {
    if (free_slots_.empty()) return;
    const std::string name = "n" + std::to_string(below(20));
    const bool known = find(name) != 0;
    ASSERT_EQ(store_.find(name) != nullptr, known);
    if (known) return;
    const uint64_t id = ++last_id_;
    Answer& answer = answers_[id];
    answer.name = name;
    answer.slot = free_slots_.back();
    answer.detached = below(3) == 0;
    answer.samples.resize(1 + below(3) / 2 * below(3));
    free_slots_.pop_back();
    seen_.slots_reused += !slots_used_.insert(answer.slot).second;
    seen_.names_reused += !names_used_.insert(name).second;

    auto request = std::make_shared<Request>();
    request->id = RequestId{id};
    request->prompt = {1, 2};
    request->sampling.n = static_cast<int32_t>(answer.samples.size());
    StoredRequest& stored = store_.open(
        answer.slot,
        {std::move(request), name, "t" + std::to_string(id), ClientId{client}, answer.detached});
    sessions_.post_accepted(ClientId{client}, stored);
    put(client, accepted(id));
    sessions_.attach(ClientId{client}, stored, {});
    attach(client, id, {});
  }
  void resume(uint64_t client) {
    const uint64_t id = some_answer([](const Answer&) { return true; });
    if (id == 0) return;
    const Answer& answer = answers_[id];
    std::vector<uint32_t> from(below(answer.samples.size() + 1));
    for (size_t s = 0; s < from.size(); ++s)
      from[s] = static_cast<uint32_t>(below(answer.samples[s].tokens.size() + 2));
    StoredRequest& stored = *store_.find(answer.name);
    sessions_.post_accepted(ClientId{client}, stored);
    put(client, accepted(id));
    sessions_.attach(ClientId{client}, stored, stored.cursor(from));
    attach(client, id, from);
  }
  void attach(uint64_t client, uint64_t id, const std::vector<uint32_t>& from) {
    Answer& answer = answers_[id];
    if (answer.reader != 0 && answer.reader != client) {
      std::erase(clients_[answer.reader].changed, id);
      put(answer.reader, rejected(answer.name, ErrorCode::kUnavailable));
      ++seen_.taken;
    }
    answer.reader = client;
    answer.read.resize(answer.samples.size());
    for (size_t s = 0; s < answer.samples.size(); ++s) {
      const Sample& sample = answer.samples[s];
      StreamCursor::Place place;
      place.token =
          std::min(s < from.size() ? from[s] : 0, static_cast<uint32_t>(sample.tokens.size()));
      if (!sample.tokens.empty())  // at most one report's text again
        place.text = sample.text_before[std::min<size_t>(place.token, sample.tokens.size() - 1)];
      answer.read[s] = place;
    }
    changed(id);
  }
  /// A report's entry; its first tokens, and its text's first bytes, may be repeated.
  void grow() {
    const uint64_t id = some_answer([](const Answer& answer) { return answer.live; });
    if (id == 0) return;
    Answer& answer = answers_[id];
    const auto s = static_cast<uint32_t>(below(answer.samples.size()));
    Sample& sample = answer.samples[s];
    const auto skip = static_cast<uint32_t>(below(std::min<size_t>(sample.tokens.size(), 2) + 1));
    const size_t again = below(std::min<size_t>(sample.text.size(), 5) + 1);
    const size_t text_before = sample.text.size();
    const uint64_t new_tokens = below(4);
    if (sample.ended) return;
    sample.ended = below(20) == 0;
    std::vector<TokenId> ids(sample.tokens.end() - skip, sample.tokens.end());
    for (uint64_t i = 0; i < new_tokens; ++i) {
      ids.push_back(static_cast<TokenId>(below(1000)));
      sample.tokens.push_back(ids.back());
      sample.text_before.push_back(text_before);
    }
    if (new_tokens > 0 || (sample.ended && !sample.tokens.empty()))  // the end may set text free
      for (uint64_t more = below(40); more > 0; --more)
        sample.text += static_cast<char>('a' + below(26));
    const auto first = static_cast<uint32_t>(sample.tokens.size() - ids.size());
    StoredRequest& stored = store_.live(answer.slot);
    auto piece = report_piece(s, first, std::move(ids), text_before - again,
                              sample.text.substr(text_before - again));
    if (sample.ended) piece.progress.finish = FinishReason::kLength;
    ASSERT_TRUE(append(store_, stored, std::move(piece), skip).has_value());
    sessions_.changed(stored);
    changed(id);
  }
  void end() {
    const uint64_t id = some_answer([](const Answer& answer) { return answer.live; });
    if (id != 0) end(id);
  }
  void end(uint64_t id) {
    Answer& answer = answers_[id];
    sessions_.changed(store_.live(answer.slot));
    changed(id);
    forget(store_.end(answer.slot, FinishReason::kStop, {ErrorCode::kOk, {}}, now_));
    answer.live = false;
    answer.ended_at = now_;
    free_slots_.push_back(answer.slot);
    ended_.push_back(id);
    while (ended_.size() > kMaxEnded) forget_oldest();
  }
  void forget(const RequestStore::Forgotten& requests) { sessions_.forgotten(requests); }
  void forget_oldest() {
    const uint64_t id = ended_.front();
    ended_.pop_front();
    Answer& answer = answers_[id];
    if (answer.reader != 0) {
      std::erase(clients_[answer.reader].changed, id);
      put(answer.reader, rejected(answer.name, ErrorCode::kNotFound));
      ++seen_.forgotten_under_reading;
    }
    answers_.erase(id);
  }

  uint64_t find(const std::string& name) const {
    for (const auto& [id, answer] : answers_)
      if (answer.name == name) return id;
    return 0;
  }
  uint64_t some_answer(auto fits) {
    std::vector<uint64_t> all;
    for (const auto& [id, answer] : answers_)
      if (fits(answer)) all.push_back(id);
    return all.empty() ? 0 : all[below(all.size())];
  }
  void changed(uint64_t id) {
    if (answers_[id].reader == 0) return;
    auto& changed = clients_[answers_[id].reader].changed;
    if (std::find(changed.begin(), changed.end(), id) == changed.end()) changed.push_back(id);
  }

  // ---- what is said ----

  std::string accepted(uint64_t id) const {
    return "A " + answers_.at(id).name + " t" + std::to_string(id);
  }
  static std::string rejected(const std::string& name, ErrorCode code) {
    return "R " + name + " " + std::string(to_string(code));
  }
  static std::string words_of(const api::ServerEvent& event) {
    if (const auto* a = std::get_if<api::Accepted>(&event))
      return "A " + a->request_id + " " + a->token;
    if (const auto* r = std::get_if<api::Rejected>(&event))
      return rejected(r->request_id, r->error.code);
    return std::holds_alternative<api::Forgotten>(event) ? "G" : "?";
  }
  /// An Accepted whose request has been forgotten is left out.
  bool is_void(const std::string& word) const {
    return word[0] == 'A' && !answers_.count(std::stoull(word.substr(word.rfind('t') + 1)));
  }
  void put(uint64_t id, const std::string& word) {
    Client& client = clients_[id];
    if (client.reachable && !client.overflowed) client.posted.push_back(word);
    // Whether those that will be left out count yet is the sessions' affair.
    const auto whole = static_cast<size_t>(
        std::count_if(client.posted.begin(), client.posted.end(),
                      [&](const std::string& posted) { return !is_void(posted); }));
    if (client.posted.size() <= options_.max_posted || client.overflowed) return;
    const auto gone = sessions_.gone(Time{});
    client.overflowed = std::any_of(gone.begin(), gone.end(),
                                    [&](const auto& one) { return one.client.value == id; });
    ASSERT_TRUE(client.overflowed || whole <= options_.max_posted) << "what is posted is bounded";
    seen_.overflows += client.overflowed;
    if (client.overflowed) client.posted.clear();
  }

  void listen() {
    std::set<uint64_t> told, may_hear;
    for (const auto& [id, client] : clients_)
      if (client.credit > 0 && client.reachable && !client.overflowed) may_hear.insert(id);
    for (const auto& message : sessions_.flush()) {
      const uint64_t client = message.client.value;
      ASSERT_TRUE(may_hear.count(client) && told.insert(client).second);
      ASSERT_FALSE(message.events.empty());
      --clients_[client].credit;
      bool answers = false;
      for (const auto& event : message.events) {
        const bool posted = !std::holds_alternative<api::TokenChunk>(event) &&
                            !std::holds_alternative<api::Finished>(event);
        ASSERT_FALSE(posted && answers) << "what was posted comes first";
        answers = !posted;
        posted ? hear_posted(client, event) : hear_answer(client, event);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
    for (const uint64_t id : may_hear) {
      for (auto& [request, answer] : answers_)
        if (answer.reader == id && !answer.owes()) answer.loose = true;
      if (sessions_.more()) continue;
      for (const auto& word : clients_[id].posted) ASSERT_TRUE(is_void(word)) << word;
      clients_[id].posted.clear();
      clients_[id].changed.clear();
      for (const auto& [request, answer] : answers_)
        ASSERT_FALSE(answer.reader == id && answer.owes()) << answer.name << " is kept back";
    }
    seen_.partial += sessions_.more();
  }
  void hear_posted(uint64_t client, const api::ServerEvent& event) {
    auto& posted = clients_[client].posted;
    while (!posted.empty() && is_void(posted.front())) posted.pop_front();
    ASSERT_FALSE(posted.empty()) << words_of(event);
    ASSERT_EQ(words_of(event), posted.front());
    posted.pop_front();
  }
  void hear_answer(uint64_t client, const api::ServerEvent& event) {
    const auto* chunk = std::get_if<api::TokenChunk>(&event);
    const uint64_t id = find(chunk ? chunk->request_id : std::get<api::Finished>(event).request_id);
    ASSERT_NE(id, 0u) << "of what is forgotten nothing is said but that";
    Answer& answer = answers_[id];
    ASSERT_EQ(answer.reader, client);
    // In the order in which they changed; those of which there is nothing to say are passed.
    auto& changed = clients_[client].changed;
    for (const uint64_t before : changed) {
      if (before == id || answer.loose) break;
      ASSERT_FALSE(answers_[before].owes() && !answers_[before].loose)
          << answer.name << " overtakes " << answers_[before].name;
    }
    if (chunk) {
      ASSERT_LT(chunk->sample, answer.samples.size());
      const Sample& sample = answer.samples[chunk->sample];
      StreamCursor::Place& place = answer.read[chunk->sample];
      ASSERT_EQ(chunk->first_index, place.token);
      ASSERT_EQ(chunk->text_offset, place.text);
      ASSERT_TRUE(!chunk->token_ids.empty() || !chunk->text.empty());
      ASSERT_LE(place.token + chunk->token_ids.size(), sample.tokens.size());
      ASSERT_TRUE(std::equal(chunk->token_ids.begin(), chunk->token_ids.end(),
                             sample.tokens.begin() + place.token));
      ASSERT_EQ(chunk->text, sample.text.substr(place.text, chunk->text.size()));
      place.token += static_cast<uint32_t>(chunk->token_ids.size());
      place.text += chunk->text.size();
      ASSERT_TRUE(chunk->token_ids.empty() || place.text == sample.text.size())
          << "who has a token has all text in front of it";
      ++seen_.chunks;
      if (answer.owes()) return;
    } else {
      const auto& end = std::get<api::Finished>(event);
      ASSERT_TRUE(!answer.live && answer.read_up()) << "the end comes last";
      ASSERT_EQ(end.samples.size(), answer.samples.size());
      for (size_t s = 0; s < end.samples.size(); ++s)
        ASSERT_TRUE(end.samples[s].completion_tokens == answer.samples[s].tokens.size() &&
                    end.samples[s].reason ==
                        (answer.samples[s].ended ? FinishReason::kLength : FinishReason::kStop));
      answer.reader = 0;  // once
      ++seen_.ends;
    }
    std::erase(changed, id);
    answer.loose = false;
  }

  // ---- the books agree ----

  void check() {
    store_.check_integrity();
    sessions_.check_integrity();
    ASSERT_EQ(store_.size(), answers_.size());
    ASSERT_EQ(store_.ended_count(), ended_.size());
    ASSERT_EQ(sessions_.size(), clients_.size());
    size_t attached = 0;
    for (const auto& [id, answer] : answers_) {
      attached += answer.reader != 0;
      const StoredRequest* stored = store_.find(answer.name);
      ASSERT_TRUE(stored && stored->id.value == id && stored->ended() == !answer.live);
      for (const auto& [client, _] : clients_)
        ASSERT_EQ(sessions_.reads(ClientId{client}, *stored), answer.reader == client);
    }
    ASSERT_EQ(sessions_.attached(), attached);
  }

  std::mt19937_64 random_;
  const ClientSessionsOptions options_;
  RequestStore store_;
  ClientSessions sessions_;
  Seen seen_;

  Time now_{seconds(100)};
  std::vector<uint64_t> seats_ = {1, 2, 3};  // client ids
  uint64_t last_client_ = 3, last_id_ = 0, words_ = 0, gone_ = 0;
  std::map<uint64_t, Client> clients_;
  std::map<uint64_t, Answer> answers_;  // live, and kept
  std::deque<uint64_t> ended_;
  std::vector<uint32_t> free_slots_;  // the last one is given first
  std::set<uint32_t> slots_used_;
  std::set<std::string> names_used_;
};

TEST(StoreAndSessions, EveryClientHearsEverythingOnceWhateverComesAndGoes) {
  World::Seen seen;
  for (uint64_t seed = 1; seed <= 200 && !HasFatalFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed);
    for (int i = 0; i < 1500 && !HasFatalFailure(); ++i) world.step();
    if (!HasFatalFailure()) world.finish();
    const auto& one = world.seen();
    seen.chunks += one.chunks;
    seen.ends += one.ends;
    seen.last_words += one.last_words;
    seen.forgotten_under_reading += one.forgotten_under_reading;
    seen.taken += one.taken;
    seen.slots_reused += one.slots_reused;
    seen.names_reused += one.names_reused;
    seen.places_reused += one.places_reused;
    seen.overflows += one.overflows;
    seen.partial += one.partial;
  }
  for (const uint64_t count :
       {seen.chunks, seen.ends, seen.last_words, seen.forgotten_under_reading, seen.taken,
        seen.slots_reused, seen.names_reused, seen.places_reused, seen.overflows, seen.partial})
    EXPECT_GE(count, 100u);
}

}  // namespace
}  // namespace tailor::coordinator
