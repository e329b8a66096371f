#include "launch/predictor/judge.h"

#include <filesystem>
#include <fstream>
#include <map>

namespace tailor::launch {

Result<bench::JudgedHead> judge_head(const predict::LengthHead& head, const std::string& name,
                                     const predict::PredictorTable& data, size_t resamples,
                                     bool replayed) {
  const predict::FeatureTable& table = data.table;
  if (table.width != head.info().input_size)
    return fail(ErrorCode::kInvalidArgument, name + " reads " +
                                                 std::to_string(head.info().input_size) +
                                                 " features, found " + std::to_string(table.width));
  std::vector<predict::JudgedPrompt> prompts;
  predict::EvaluationOptions options;
  options.resamples = resamples;
  std::map<std::string, uint32_t> groups;
  for (const size_t i : table.rows_of(predict::Split::kTest)) {
    const predict::FeatureRow& row = table.rows[i];
    prompts.push_back({head.predict(table.of(i)), row.limit, row.lengths, row.censored});
    const auto next = static_cast<uint32_t>(groups.size());
    options.groups.push_back(groups.emplace(row.id, next).first->second);
  }
  if (prompts.empty())
    return fail(ErrorCode::kInvalidArgument, "no prompt of the test split has lengths");
  bench::JudgedHead out;
  out.name = name;
  out.features = head.info().encoder;
  if (head.info().layer >= 0) out.features += " state, layer " + std::to_string(head.info().layer);
  out.model = data.info.model_name;
  out.figures = predict::evaluate(prompts, tie::LawMath(head.info().nu), options);
  // The law of what remains is no law of a whole answer.
  if (replayed && head.info().kind != "remaining") {
    TAILOR_ASSIGN(out.replay, bench::replay(prompts));
  }
  return out;
}

Result<void> write_report(const bench::PredictorReport& report, const std::string& folder,
                          const std::string& name) {
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  const auto write = [&](const std::string& end, const std::string& text) -> Result<void> {
    const std::string path = folder + "/" + name + end;
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (!file) return fail(ErrorCode::kUnavailable, "cannot write " + path);
    return {};
  };
  TAILOR_TRY(write(".json", bench::predictor_report_json(report)));
  return write(".html", bench::predictor_report_html(report));
}

}  // namespace tailor::launch
