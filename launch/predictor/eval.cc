// `tailor-predictor eval`: the heads of a predictor's folder by its own held-out data, or given
// heads by given data.
//
// A predictor's folder may hold evaluation.json: {"lengths": [..], "prompts": [..], "hidden":
// ".."}, paths relative to the folder. Its lengths must be of prompts of the test split.
#include "launch/predictor/eval.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/model_stamp.h"
#include "launch/predictor/judge.h"
#include "predict/length_head.h"
#include "predict/model/trained_predictor.h"
#include "predict/process/data.h"
#include "weights/config_json.h"
#include "weights/weight_files.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::vector<std::string> heads;
  predict::PredictorData data;
  std::string hidden, encoder, out;
  size_t resamples = 1000;
  bool json = false, replay = false;
};

// Fills what the command line left open from the predictor's folder.
Result<void> open_folder(Options& o) {
  std::string folder =
      o.model == "default" ? std::string(TAILOR_DATA_FOLDER "/predictors/default") : o.model;
  if (!fs::is_directory(folder))
    return fail(ErrorCode::kNotFound, "no predictor for model " + o.model + ": expected a folder " +
                                          folder + " with heads and evaluation.json");
  if (o.heads.empty()) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string file = entry.path().filename().string();
      if (file.ends_with(".safetensors") && !predict::is_tuned_encoder_file(file))
        o.heads.push_back(entry.path().string());
    }
    std::sort(o.heads.begin(), o.heads.end());
  }
  const std::string path = folder + "/evaluation.json";
  if (!o.data.lengths.empty() || !fs::exists(path)) return {};
  TAILOR_ASSIGN(const auto json, weights::load_json_object(path));
  const auto files = [&](const char* key, std::vector<std::string>& to) -> Result<void> {
    const auto found = json.find(key);
    if (found == json.end()) return {};
    if (!found->is_array())
      return fail(ErrorCode::kInvalidArgument,
                  path + ": expected \"" + key + "\" to be a list of files");
    for (const auto& file : *found)
      if (file.is_string()) to.push_back((fs::path(folder) / file.get<std::string>()).string());
    return {};
  };
  TAILOR_TRY(files("lengths", o.data.lengths));
  if (o.data.prompts.empty()) TAILOR_TRY(files("prompts", o.data.prompts));
  if (o.hidden.empty() && json.contains("hidden") && json["hidden"].is_string())
    o.hidden = (fs::path(folder) / json["hidden"].get<std::string>()).string();
  return {};
}

Result<bench::JudgedHead> judge(const Options& o, const std::string& path) {
  TAILOR_ASSIGN(const predict::LengthHead head, predict::LengthHead::load(path));
  const predict::HeadInfo& info = head.info();
  predict::PredictorData data = o.data;
  data.kind = info.kind;
  if (info.encoder == "hidden") {
    if (o.hidden.empty())
      return fail(
          ErrorCode::kInvalidArgument,
          path + " reads hidden states: expected --hidden FILE (tailor collect --features)");
    data.features = "hidden:" + o.hidden + ":" + std::to_string(info.layer);
  } else {
    const predict::HeadFeatures from = predict::features_of_head(info, path, o.encoder);
    data.features = from.what, data.overlay = from.overlay;
  }
  TAILOR_ASSIGN(const predict::PredictorTable table, predict::load_predictor_table(data));
  if (!stamp_fits(info.model_fingerprint, table.info.model_fingerprint))
    return fail(ErrorCode::kInvalidArgument,
                stamp_misfit(path, info.model_fingerprint, table.info.model_fingerprint));
  if (!stamp_fits(info.encoder_fingerprint, table.info.encoder_fingerprint))
    return fail(ErrorCode::kInvalidArgument, path + " was trained with the encoder " +
                                                 info.encoder_fingerprint + ", found " +
                                                 table.info.encoder_fingerprint);
  return judge_head(head, fs::path(path).stem().string(), table, o.resamples, o.replay);
}

Result<void> eval(Options& o) {
  if (!o.model.empty()) TAILOR_TRY(open_folder(o));
  if (o.heads.empty() || o.data.lengths.empty())
    return fail(ErrorCode::kInvalidArgument,
                "eval needs heads and lengths: --model default, or --head FILE and --lengths FILE");
  bench::PredictorReport report;
  for (const std::string& path : o.heads) {
    TAILOR_ASSIGN(bench::JudgedHead judged, judge(o, path));
    report.heads.push_back(std::move(judged));
  }
  if (report.heads.size() > 1) report.reference = 0;
  std::printf("%s",
              (o.json ? bench::predictor_report_json(report) : bench::predictor_report_text(report))
                  .c_str());
  return o.out.empty() ? Result<void>{} : write_report(report, o.out, "predictor-report");
}

}  // namespace

PredictorCommand add_predictor_eval(CLI::App& parent) {
  auto o = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("eval", "Judge heads by prompts they never saw");
  app->add_option("--model", o->model,
                  "default, or a predictor's folder: its heads by its evaluation.json");
  app->add_option("--head", o->heads, "Head files; differences are to the first");
  app->add_option("--lengths", o->data.lengths, "Length files");
  app->add_option("--prompts", o->data.prompts, "Files with the prompts' texts");
  app->add_option("--limit", o->data.limit,
                  "Longer answers count as cut there; 0 = the files' limit");
  app->add_option("--leave-out", o->data.leave_out, "Prompts whose id begins so are not used");
  app->add_option("--hidden", o->hidden, "Feature file, for heads of hidden states");
  app->add_option("--encoder", o->encoder, "Instead of the encoder that a head names");
  app->add_option("--threads", o->data.threads, "Threads of libtorch; 0 = all")
      ->check(CLI::Range(0, 1024));
  app->add_option("--resamples", o->resamples, "Of the bootstrap")->check(CLI::Range(0, 100000));
  app->add_flag("--replay", o->replay,
                "Also per-token latency in simulated bursts ordered by the laws");
  app->add_option("--out", o->out, "Folder for predictor-report.html and .json");
  app->add_flag("--json", o->json, "Figures as JSON");
  return {app, [o] {
            const auto done = eval(*o);
            if (done) return 0;
            std::fprintf(stderr, "tailor-predictor: %s\n", done.error().message.c_str());
            return 1;
          }};
}

}  // namespace tailor::launch
