#include "coordinator/predictor_link.h"

#include "base/describe.h"

namespace tailor::coordinator {

bool PredictorLink::hello(comm::LinkId link, const PredictorHello& hello, Time now) {
  const bool known = link_ == link;
  if (link_ && !known) lose();  // one predictor at a time: the newest
  link_ = link;
  heard_ = now;
  if (known) return false;
  mute_ = false;
  hello_ = hello;
  ever_ = true;
  return true;
}

std::optional<comm::LinkId> PredictorLink::ask(RequestId request, Time now) {
  if (!link_ || (mute_ && !open_.empty())) {
    ++counters_.unasked;
    return std::nullopt;
  }
  if (open_.size() >= options_.max_open) {
    ++counters_.dropped;
    return std::nullopt;
  }
  open_[request] = {now, answers_};
  ++counters_.asked;
  return link_;
}

bool PredictorLink::answered(comm::LinkId link, RequestId request) {
  if (link_ == link) {
    mute_ = false;
    ++answers_;
  }
  if (link_ != link || open_.erase(request) == 0) {
    ++counters_.strays;
    return false;
  }
  ++counters_.answered;
  return true;
}

bool PredictorLink::gone(comm::LinkId link) {
  if (link_ != link) return false;
  lose();
  return true;
}

bool PredictorLink::fell_mute(Time now) {
  bool answers_nothing = false;
  counters_.unanswered += std::erase_if(open_, [&](const auto& question) {
    if (now - question.second.asked < options_.answer_within) return false;
    answers_nothing = answers_nothing || question.second.answers_before == answers_;
    return true;
  });
  if (!answers_nothing || mute_) return false;
  ++counters_.losses;
  counters_.unanswered += open_.size();
  open_.clear();
  mute_ = true;
  return true;
}

void PredictorLink::forgive(Duration pause) {
  heard_ += pause;
  for (auto& [request, question] : open_) question.asked += pause;
}

bool PredictorLink::fell_silent(Time now) {
  if (!link_ || now - heard_ < options_.silent_after) return false;
  lose();
  return true;
}

void PredictorLink::lose() {
  ++counters_.losses;
  counters_.unanswered += open_.size();
  open_.clear();
  link_.reset();
  mute_ = false;
}

std::string PredictorLink::describe() const {
  if (!ever_) return "none";
  return std::string(present() ? "ready: " : "lost: ") + on_one_line(hello_.name) + " (" +
         on_one_line(hello_.encoder) + ", " + on_one_line(hello_.head) + ", pid " +
         std::to_string(hello_.pid) + ")";
}

}  // namespace tailor::coordinator
