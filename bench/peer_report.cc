#include "bench/peer_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

namespace tailor::bench {
namespace {

using Json = nlohmann::ordered_json;

std::optional<FixedBatch> parse_line(const std::string& line) {
  const size_t begin = line.find('{');
  if (begin == std::string::npos) return std::nullopt;
  const Json json = Json::parse(line.substr(begin), nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto number = [&](const char* key) -> std::optional<double> {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number()) return std::nullopt;
    return found->get<double>();
  };
  const auto threads = number("n_threads"), prompt = number("pp"), decode = number("tg"),
             batch = number("pl"), prompt_per_s = number("speed_pp"),
             decode_per_s = number("speed_tg");
  if (!threads || !prompt || !decode || !batch || !prompt_per_s || !decode_per_s)
    return std::nullopt;
  return FixedBatch{static_cast<int>(*threads),
                    static_cast<int>(*prompt),
                    static_cast<int>(*decode),
                    static_cast<int>(*batch),
                    *prompt_per_s,
                    *decode_per_s};
}

/// "-3 % +5 %": the slowest and fastest round against the median.
std::string spread(const std::vector<double>& rounds) {
  const double middle = median(rounds);
  if (middle <= 0) return "-";
  const auto [low, high] = std::minmax_element(rounds.begin(), rounds.end());
  char text[48];
  std::snprintf(text, sizeof text, "%+.0f %% %+.0f %%", 100 * (*low / middle - 1),
                100 * (*high / middle - 1));
  return text;
}

}  // namespace

Result<std::vector<FixedBatch>> read_fixed_batches(const std::string& output) {
  std::vector<FixedBatch> batches;
  std::istringstream lines(output);
  std::string last = "nothing";
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    last = line;
    if (const auto batch = parse_line(line)) batches.push_back(*batch);
  }
  if (batches.empty())
    return fail(ErrorCode::kProtocol,
                "the run printed no measurement; its last line was: " + last.substr(0, 300));
  return batches;
}

std::string fixed_batch_line(const FixedBatch& batch) {
  return Json({{"n_threads", batch.threads},
               {"pp", batch.prompt_tokens},
               {"tg", batch.decode_tokens},
               {"pl", batch.batch},
               {"speed_pp", batch.prompt_per_s},
               {"speed_tg", batch.decode_per_s}})
      .dump();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double ratio(const PeerRow& row) {
  const double theirs = median(row.theirs);
  return theirs > 0 ? median(row.ours) / theirs : 0;
}

std::string peer_table(const std::vector<PeerRow>& rows) {
  char line[240];
  std::snprintf(line, sizeof line, "%-13s %7s %6s %-7s %7s %10s %10s %7s  %-14s %-14s %s\n",
                "format", "threads", "batch", "phase", "prompt", "tailor/s", "llama/s", "ratio",
                "spread", "theirs", "their settings");
  std::string table = line;
  for (const PeerRow& row : rows) {
    std::snprintf(line, sizeof line,
                  "%-13s %7d %6d %-7s %7d %10.1f %10.1f %6.2fx  %-14s %-14s %s\n",
                  row.format.c_str(), row.threads, row.batch, row.phase.c_str(), row.prompt_tokens,
                  median(row.ours), median(row.theirs), ratio(row), spread(row.ours).c_str(),
                  spread(row.theirs).c_str(), row.their_settings.c_str());
    table += line;
  }
  return table;
}

std::string peer_json(const std::vector<PeerRow>& rows) {
  Json all = Json::array();
  for (const PeerRow& row : rows)
    all.push_back({{"format", row.format},
                   {"threads", row.threads},
                   {"batch", row.batch},
                   {"phase", row.phase},
                   {"ours", median(row.ours)},
                   {"theirs", median(row.theirs)},
                   {"ratio", ratio(row)},
                   {"prompt_tokens", row.prompt_tokens},
                   {"their_settings", row.their_settings},
                   {"our_rounds", row.ours},
                   {"their_rounds", row.theirs}});
  return all.dump(1);
}

}  // namespace tailor::bench
