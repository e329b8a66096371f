#include "coordinator/waiting_queue.h"

#include <algorithm>

#include "base/check.h"
#include "tie/law_of_largest.h"

namespace tailor::coordinator {

bool says_nothing(const LengthLaw& law) {
  return law.kind == LengthLaw::Kind::kNone || !well_formed(law);
}

WaitingQueue::WaitingQueue(const Policy& policy, PolicyTable table)
    : row_(row_of(policy, table)), parameters_(policy.parameters) {}

uint32_t WaitingQueue::size() const {
  size_t count = 0;
  for (const auto& queue : classes_) count += queue.size();
  return static_cast<uint32_t>(count);
}

uint32_t WaitingQueue::next() const {
  for (const auto& queue : classes_)
    if (!queue.empty()) return queue.top_handle();
  return kNone;
}

void WaitingQueue::push(uint32_t slot, LiveRequest& request) {
  request.moments = work_left(request);
  classes_[request.priority].push(
      slot, {key(request, request.moments), request.arrival.time_since_epoch().count(),
             request.id.value});
}

void WaitingQueue::erase(uint32_t slot, const LiveRequest& request) {
  classes_[request.priority].erase(slot);
}

void WaitingQueue::rekey(uint32_t slot, LiveRequest& request) {
  if (!row_.needs.law) return;
  request.moments = work_left(request);
  classes_[request.priority].rekey(slot, key(request, request.moments));
}

bool WaitingQueue::take_population(const LengthLaw& said, RequestBook& requests) {
  if (!row_.needs.law) return false;
  const LengthLaw law = says_nothing(said) ? tie::default_population() : said;
  if (!math_) {
    math_.emplace(law.kind == LengthLaw::Kind::kLogT ? static_cast<double>(law.nu) : 3.5);
  } else if (law == population_) {
    return false;  // a predictor that came back
  } else if (law.kind == LengthLaw::Kind::kLogT && static_cast<double>(law.nu) != math_->nu()) {
    math_.emplace(static_cast<double>(law.nu));
  }
  population_ = law;
  for (uint32_t slot = 0; slot < requests.slots(); ++slot)
    if (requests[slot].waiting()) requests[slot].moments = work_left(requests[slot]);
  return rekey_all(requests);
}

bool WaitingQueue::follow_beta(Time now, uint32_t usable_slots, const RequestBook& requests) {
  if (!row_.needs.beta) return false;
  const double before = beta_.value();
  return beta_.update(now, size(), usable_slots) != before && rekey_all(requests);
}

bool WaitingQueue::rekey_all(const RequestBook& requests) {
  for (auto& queue : classes_)
    queue.rekey_all([&](tie::PriorityQueue::Handle slot, const tie::PriorityQueue::Entry&) {
      return key(requests[slot], requests[slot].moments);
    });
  return size() > 0;
}

tie::Moments WaitingQueue::work_left(const LiveRequest& request) const {
  if (!math_) return {};
  const LengthLaw law =
      request.law_source == LawSource::kPopulation ? population_ : request.law.law();
  if (request.num_samples > 1)
    return tie::moments_of_largest(*math_, law, request.num_samples, request.max_tokens);
  const uint32_t known = std::min(request.law_generated, request.max_tokens);
  const uint32_t since = std::max(request.generated, known) - known;
  return math_->moments(law, request.max_tokens - known, since);
}

double WaitingQueue::key(const LiveRequest& request, const tie::Moments& work_left) const {
  WorkView work;
  LengthLaw own;
  if (math_) {
    work.moments = work_left;
    work.law = &population_;
    if (request.law_source != LawSource::kPopulation) {
      own = request.law.law();
      work.law = &own;
    }
    work.law_from = request.law_generated;
    work.math = &*math_;
  }
  work.beta = beta_.value();
  work.prompt_tokens = request.prompt_tokens;
  work.max_tokens = request.max_tokens;
  work.samples = request.num_samples;
  work.generated = request.generated;
  work.arrival = request.arrival;
  work.priority = static_cast<PriorityClass>(request.priority);
  work.hint = request.hint;
  work.truth = request.truth;
  return row_.waiting_key(work, parameters_);
}

uint32_t WaitingQueue::place(uint32_t slot, const RequestBook& requests) const {
  const LiveRequest& request = requests[slot];
  const auto& own = classes_[request.priority].at(slot);
  uint32_t place = 1;
  for (uint32_t s = 0; s < requests.slots(); ++s) {
    const LiveRequest& other = requests[s];
    if (!other.waiting()) continue;
    place += other.priority < request.priority ||
             (other.priority == request.priority && classes_[other.priority].at(s) < own);
  }
  return place;
}

void WaitingQueue::check_integrity(const RequestBook& requests) const {
  for (const auto& queue : classes_) queue.check_integrity();
  size_t waiting = 0;
  for (uint32_t slot = 0; slot < requests.slots(); ++slot) {
    const LiveRequest& request = requests[slot];
    if (!request.waiting()) continue;
    ++waiting;
    const auto& node = classes_[request.priority].at(slot);
    TAILOR_CHECK(node.id == request.id.value, "a waiting request is in its queue");
    TAILOR_CHECK(node.key == key(request, request.moments),
                 "a waiting request's key is that of its law and beta");
  }
  TAILOR_CHECK(waiting == size(), "the queues hold the waiting requests and no others");
}

}  // namespace tailor::coordinator
