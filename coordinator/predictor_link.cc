#include "coordinator/predictor_link.h"

namespace tailor::coordinator {

bool PredictorLink::hello(comm::LinkId link, const PredictorHello& hello, Time now) {
  const bool known = link_ == link;
  if (link_ && !known) lose();  // one predictor at a time: the newest
  link_ = link;
  heard_ = now;
  if (known) return false;
  hello_ = hello;
  ever_ = true;
  return true;
}

std::optional<comm::LinkId> PredictorLink::ask(RequestId request) {
  if (!link_) {
    ++counters_.unasked;
    return std::nullopt;
  }
  if (open_.size() >= options_.max_open) {
    ++counters_.dropped;
    return std::nullopt;
  }
  open_.insert(request);
  ++counters_.asked;
  return link_;
}

bool PredictorLink::answered(comm::LinkId link, RequestId request) {
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
}

std::string PredictorLink::describe() const {
  if (!ever_) return "none";
  return std::string(link_ ? "ready: " : "lost: ") + hello_.name + " (" + hello_.encoder + ", " +
         hello_.head + ", pid " + std::to_string(hello_.pid) + ")";
}

}  // namespace tailor::coordinator
