#include "bench/summary.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/json_text.h"

namespace tailor::bench {
namespace {

struct Metric {
  const char* name;
  const char* key;
  double (*value)(const RequestRow&);
};

const Metric kMetrics[] = {
    {"time to first token", "ttft_s", [](const RequestRow& r) { return r.first_token_s; }},
    {"time per output token", "tpot_s",
     [](const RequestRow& r) { return r.time_per_output_token_s(); }},
    {"per-token latency", "per_token_latency_s",
     [](const RequestRow& r) { return r.per_token_latency_s(); }},
    {"end to end", "e2e_s", [](const RequestRow& r) { return r.finished_s; }},
    {"queue wait", "queue_wait_s", [](const RequestRow& r) { return r.queue_wait_s; }},
};

std::vector<double> collect(const LoadResult& result, const Metric& metric) {
  std::vector<double> values;
  for (const auto& row : result.rows) {
    if (row.error.empty()) values.push_back(metric.value(row));
  }
  return values;
}

struct ReplicaShare {
  uint64_t requests = 0, tokens = 0;
};

std::map<uint32_t, ReplicaShare> by_replica(const LoadResult& result) {
  std::map<uint32_t, ReplicaShare> shares;
  for (const auto& row : result.rows) {
    if (!row.error.empty()) continue;
    shares[row.replica].requests += 1;
    shares[row.replica].tokens += row.output_tokens;
  }
  return shares;
}

template <class... Args>
void append(std::string& out, const char* format, Args... args) {
  char line[256];
  std::snprintf(line, sizeof line, format, args...);
  out += line;
}

}  // namespace

Statistics statistics(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  auto at = [&](double q) {
    const double x = q * (values.size() - 1);
    const size_t low = static_cast<size_t>(x);
    const size_t high = std::min(low + 1, values.size() - 1);
    return values[low] + (x - low) * (values[high] - values[low]);
  };
  double sum = 0;
  for (double v : values) sum += v;
  return {sum / values.size(), at(0.5), at(0.9), at(0.99)};
}

std::string summary_table(const LoadResult& result) {
  std::string out;
  append(out, "%-24s %10s %10s %10s %10s\n", "milliseconds", "mean", "P50", "P90", "P99");
  for (const auto& metric : kMetrics) {
    const Statistics s = statistics(collect(result, metric));
    append(out, "%-24s %10.1f %10.1f %10.1f %10.1f\n", metric.name, s.mean * 1e3, s.p50 * 1e3,
           s.p90 * 1e3, s.p99 * 1e3);
  }
  for (const auto& [replica, share] : by_replica(result))
    append(out, "replica %-16u %10.1f tokens/s  (%llu requests, %llu tokens)\n", replica,
           share.tokens / result.wall_s, static_cast<unsigned long long>(share.requests),
           static_cast<unsigned long long>(share.tokens));
  append(out, "%-24s %10.1f tokens/s  (%zu requests, %llu tokens in %.1f s)\n", "all",
         result.output_tokens() / result.wall_s, result.rows.size(),
         static_cast<unsigned long long>(result.output_tokens()), result.wall_s);
  size_t failed = 0;
  std::string first_error;
  for (const auto& row : result.rows) {
    if (row.error.empty()) continue;
    if (failed++ == 0) first_error = row.error;
  }
  if (failed > 0)
    append(out, "%zu requests failed, the first with %.160s\n", failed, first_error.c_str());
  return out;
}

std::string summary_json(const LoadResult& result, const std::string& label) {
  nlohmann::ordered_json json;
  json["label"] = label;
  json["wall_s"] = result.wall_s;
  json["output_tokens"] = result.output_tokens();
  json["tokens_per_s"] = result.output_tokens() / result.wall_s;
  for (const auto& metric : kMetrics) {
    const Statistics s = statistics(collect(result, metric));
    json[metric.key] = {{"mean", s.mean}, {"p50", s.p50}, {"p90", s.p90}, {"p99", s.p99}};
  }
  for (const auto& [replica, share] : by_replica(result))
    json["replicas"][std::to_string(replica)] = {{"requests", share.requests},
                                                 {"tokens", share.tokens},
                                                 {"tokens_per_s", share.tokens / result.wall_s}};
  for (const auto& row : result.rows)
    json["rows"].push_back({{"index", row.index},
                            {"replica", row.replica},
                            {"prompt_tokens", row.prompt_tokens},
                            {"output_tokens", row.output_tokens},
                            {"tokens_hash", row.tokens_hash},
                            {"queue_wait_s", row.queue_wait_s},
                            {"ttft_s", row.first_token_s},
                            {"e2e_s", row.finished_s},
                            {"finish_reason", row.finish_reason},
                            {"error", row.error}});
  return json.dump();
}

namespace {

/// Throws json::exception where either is not a summary.
std::string compare(const nlohmann::json& former, const nlohmann::json& now) {
  std::string out;
  const auto label_of = [](const nlohmann::json& run) {
    return run.at("label").get<std::string>();
  };
  append(out, "%-32s %10s %10s %10s\n", "milliseconds", label_of(former).c_str(),
         label_of(now).c_str(), "ratio");
  for (const auto& metric : kMetrics) {
    for (const char* what : {"mean", "p50", "p90"}) {
      const double before = former.at(metric.key).at(what), after = now.at(metric.key).at(what);
      append(out, "%-27s %4s %10.1f %10.1f", metric.name, what, before * 1e3, after * 1e3);
      append(out, " %10.2f\n", before > 0 ? after / before : 1.0);
    }
  }
  const auto &rows = now.at("rows"), &former_rows = former.at("rows");
  size_t same = 0;
  for (size_t i = 0; i < rows.size(); ++i)
    same += former_rows.at(i).at("tokens_hash") == rows.at(i).at("tokens_hash");
  const double before = former.at("tokens_per_s"), after = now.at("tokens_per_s");
  append(out, "%-32s %10.1f %10.1f %10.2f\n", "tokens/s", before, after, after / before);
  append(out, "the same tokens in both runs: %zu of %zu answers\n", same, rows.size());
  return out;
}

}  // namespace

Result<std::string> comparison_table(const std::string& former_json, const LoadResult& result,
                                     const std::string& label) {
  const nlohmann::json former = parse_json(former_json).value_or(nlohmann::json());
  TAILOR_ASSIGN(const nlohmann::json now, parse_json(summary_json(result, label)));
  try {
    if (former.at("rows").size() == now.at("rows").size()) return compare(former, now);
    return fail(ErrorCode::kInvalidArgument,
                "the former run had " + std::to_string(former.at("rows").size()) +
                    " requests, this one " + std::to_string(now.at("rows").size()));
  } catch (const nlohmann::json::exception&) {
    return fail(ErrorCode::kInvalidArgument, "this is not what `tailor bench burst --json` writes");
  }
}

}  // namespace tailor::bench
