#include "launch/device_place.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace tailor::launch {
namespace {

bool same_host(const RankView& a, const RankView& b) { return a.host == b.host; }
bool same_gpus(const RankView& a, const RankView& b) {
  return a.num_gpus == b.num_gpus && a.gpus == b.gpus;
}

/// Its number among those that see the same; how many those are in `all`.
int number_of(std::span<const RankView> ranks, int rank, int& all) {
  const RankView& mine = ranks[static_cast<size_t>(rank)];
  int lower = 0;
  all = 0;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (!same_host(ranks[r], mine) || !same_gpus(ranks[r], mine)) continue;
    ++all;
    lower += static_cast<int>(r) < rank;
  }
  return lower;
}

}  // namespace

Result<int> choose_device(std::span<const RankView> ranks, int me, int first) {
  const RankView& mine = ranks[static_cast<size_t>(me)];
  const std::string host = mine.host.data();
  int all = 0;
  const int index = first + number_of(ranks, me, all);
  if (mine.num_gpus == 0) return index;
  const auto count = static_cast<int>(mine.num_gpus);
  if (index >= count)
    return fail(ErrorCode::kUnavailable,
                std::to_string(all) + " ranks on " + host + " see the same " +
                    std::to_string(count) + " GPU(s)" +
                    (first > 0 ? ", counted from " + std::to_string(first) : "") +
                    ": lower --replicas or --tp (one rank per GPU)");
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (static_cast<int>(r) == me || !same_host(ranks[r], mine)) continue;
    const int other = first + number_of(ranks, static_cast<int>(r), all);
    if (other < static_cast<int>(ranks[r].num_gpus) &&
        ranks[r].gpus[static_cast<size_t>(other)] == mine.gpus[static_cast<size_t>(index)])
      return fail(ErrorCode::kUnavailable,
                  "ranks " + std::to_string(std::min<int>(me, static_cast<int>(r))) + " and " +
                      std::to_string(std::max<int>(me, static_cast<int>(r))) + " on " + host +
                      " would share a GPU: CUDA_VISIBLE_DEVICES must show them the same GPUs, or "
                      "each one of its own");
  }
  return index;
}

Result<std::string> device_of_rank(const std::string& device, comm::Collective& launch) {
  if (device.rfind("cuda", 0) != 0) return device;
  RankView mine;
  gethostname(mine.host.data(), mine.host.size() - 1);
  const auto seen = visible_gpus();
  mine.num_gpus = static_cast<uint32_t>(std::min(seen.size(), RankView::kMostGpus));
  std::copy_n(seen.begin(), mine.num_gpus, mine.gpus.begin());
  std::vector<RankView> all(static_cast<size_t>(launch.size()));
  TAILOR_TRY(launch.all_gather(std::as_bytes(std::span(&mine, 1)),
                               std::as_writable_bytes(std::span(all))));
  const int first = device.size() > 5 ? std::stoi(device.substr(5)) : 0;
  TAILOR_ASSIGN(const int index, choose_device(all, launch.rank(), first));
  return "cuda:" + std::to_string(index);
}

}  // namespace tailor::launch
