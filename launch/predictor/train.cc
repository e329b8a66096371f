// `tailor-predictor train`: from length files to a head, with its encoder's last layers tuned where
// that is asked for, judged by its test prompts.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/clock.h"
#include "launch/predictor/commands.h"
#include "launch/predictor/eval.h"
#include "launch/predictor/judge.h"
#include "predict/model/encoder_tuning.h"
#include "predict/model/trained_predictor.h"
#include "predict/model/trainer.h"
#include "predict/process/data.h"

namespace tailor::launch {
namespace {

struct Options {
  predict::PredictorData data;
  predict::TrainOptions train;
  predict::TuneOptions tune;
  std::string objective = "likelihood", head = "mlp", out, name;
  size_t resamples = 1000;
  bool no_cache = false, fixed_nu = false, freeze_encoder = false;
};

// One line, redrawn in place on a terminal.
void show(const std::string& text, bool last = false) {
  if (isatty(STDERR_FILENO)) {
    std::fprintf(stderr, "\r%s\x1b[K%s", text.c_str(), last ? "\n" : "");
  } else if (last) {
    std::fprintf(stderr, "%s\n", text.c_str());
  }
}

Result<void> settle(Options& o) {
  TAILOR_ASSIGN(o.train.objective, predict::objective_of(o.objective));
  if (o.head == "histogram") o.train.objective = predict::Objective::kHistogram;
  if (o.head == "linear") o.train.trunk.clear(), o.train.stack = 0;
  if (o.name.empty()) o.name = o.data.kind;
  o.data.cache = !o.no_cache;
  o.train.threads = o.data.threads;
  o.train.choose_nu = !o.fixed_nu;
  o.data.say = [](const std::string& line) { show(line); };
  if (o.freeze_encoder) o.tune.layers = 0;
  if (o.tune.layers > 0 && o.data.kind != "prompt")
    return fail(ErrorCode::kInvalidArgument,
                "--train-layers tunes the encoder of prompts; kind " + o.data.kind + " has none");
  o.tune.say = [](const std::string& line) { show(line, line.starts_with("the ")); };
  std::error_code error;
  std::filesystem::create_directories(o.out, error);
  if (!std::filesystem::is_directory(o.out))
    return fail(ErrorCode::kUnavailable, "cannot make the folder " + o.out);
  o.train.checkpoint = o.out + "/" + o.name + ".checkpoint";
  o.tune.checkpoint = o.out + "/" + o.name + "-encoder.checkpoint";
  return {};
}

void show_progress(const predict::TrainProgress& p, double seconds) {
  const double done = (p.member + static_cast<double>(p.epoch) / p.epochs) / p.members;
  char line[160];
  std::snprintf(line, sizeof line,
                "%s %d of %d, epoch %d of %d: loss %.4f, validation %.4f; at most %.0f s left",
                p.of_encoder ? "encoder" : "member", p.member + 1, p.members, p.epoch, p.epochs,
                p.loss.train, p.loss.validation, seconds * (1 - done) / done);
  show(line, p.of_encoder);
}

/// The head, and beside it what was tuned for it: the encoder first, since a head is refused
/// with another encoder.
Result<void> save(const Options& o, const predict::PredictorTable& data,
                  const predict::TrainedHead& trained, const std::string& path) {
  const std::string tuned = predict::tuned_encoder_file(path);
  std::error_code ignored;
  if (o.tune.layers > 0) {
    TAILOR_TRY(predict::save_tuned_layers(*data.prompts->encoder(), o.tune, tuned));
  } else {
    std::filesystem::remove(tuned, ignored);
  }
  TAILOR_TRY(predict::save_head(trained.weights, path));
  for (const std::string& file :
       {o.train.checkpoint, o.train.checkpoint + ".members", o.tune.checkpoint})
    std::filesystem::remove(file, ignored);
  return {};
}

Result<predict::StagedHead> frozen(
    const predict::PredictorTable& data, const predict::TrainOptions& options,
    const std::function<bool(const predict::TrainProgress&)>& progress) {
  TAILOR_ASSIGN(predict::TrainedHead head,
                predict::train_head(data.table, data.info, options, progress));
  return predict::StagedHead{std::move(head), {}};
}

Result<void> train(Options& o) {
  TAILOR_TRY(settle(o));
  TAILOR_ASSIGN(predict::PredictorTable data, predict::load_predictor_table(o.data));
  const Time began = now();
  const auto progress = [&](const predict::TrainProgress& p) {
    show_progress(p, to_seconds(now() - began));
    return true;
  };
  TAILOR_ASSIGN(
      const predict::StagedHead staged,
      data.prompts
          ? predict::train_in_stages(
                *data.prompts, data.texts, data.table, data.info, o.train, o.tune, progress,
                [&] { return predict::features_of(o.data, *data.prompts, data.texts); })
          : frozen(data, o.train, progress));
  const predict::TrainedHead& trained = staged.head;
  const std::string path = o.out + "/" + o.name + ".safetensors";
  TAILOR_TRY(save(o, data, trained, path));
  char took[64];
  std::snprintf(took, sizeof took, ": trained in %.0f s", to_seconds(now() - began));
  show(path + took, true);

  TAILOR_ASSIGN(const predict::LengthHead head, predict::LengthHead::make(trained.weights, path));
  TAILOR_ASSIGN(bench::JudgedHead judged, judge_head(head, o.name, data, o.resamples));
  std::vector<std::vector<predict::EpochLoss>> curves = trained.curves;
  if (!staged.tuning.empty()) curves.insert(curves.begin(), staged.tuning);
  for (const auto& curve : curves) {
    auto& lines = judged.curves.emplace_back();
    for (const predict::EpochLoss& loss : curve) lines.emplace_back(loss.train, loss.validation);
  }
  const bench::PredictorReport report{{judged}, static_cast<size_t>(-1)};
  std::printf("%s", bench::predictor_report_text(report).c_str());
  return write_report(report, o.out, o.name + "-training");
}

void add_data_options(CLI::App& app, predict::PredictorData& data) {
  app.add_option("--lengths", data.lengths, "Length files (tailor collect); joined by prompt")
      ->required();
  app.add_option("--prompts", data.prompts, "Files with the prompts' texts: id, text");
  app.add_option("--features", data.features,
                 "lexical, ENCODER, ENCODER+lexical (minilm or a Hugging Face folder), or "
                 "hidden:FILE[,FILE..]:LAYER");
  app.add_option("--kind", data.kind, "What the head is for")
      ->check(CLI::IsMember({"prompt", "probe", "remaining"}));
  app.add_option("--limit", data.limit, "Longer answers count as cut there; 0 = the files' limit");
  app.add_option("--leave-out", data.leave_out, "Prompts whose id begins so are not used");
  app.add_option("--threads", data.threads, "Threads of libtorch; 0 = all")
      ->check(CLI::Range(0, 1024));
}

void add_tuning_options(CLI::App& app, Options& o) {
  CLI::Option* layers =
      app.add_option("--train-layers", o.tune.layers,
                     "Tune the encoder's last so many with the head, then the head alone; more "
                     "than it has = the embeddings too; 0 = as --freeze-encoder")
          ->check(CLI::Range(0, 1000));
  app.add_flag("--freeze-encoder", o.freeze_encoder, "Train the head alone")->excludes(layers);
  app.add_flag("--biases-only", o.tune.biases_only,
               "Of those layers, tune biases and norms alone: a file of KBs instead of MBs");
  app.add_option("--encoder-rate", o.tune.learning_rate,
                 "Highest learning rate of the encoder; 0 = 1e-4, with --biases-only 1e-3")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--encoder-epochs", o.tune.epochs, "Of the encoder, at most")
      ->check(CLI::Range(1, 100000));
  app.add_option("--encoder-tokens", o.tune.max_tokens, "Of a prompt, while the encoder is tuned")
      ->check(CLI::Range(2, predict::Encoder::kMaxTokens));
}

PredictorCommand add_train(CLI::App& parent) {
  auto o = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("train", "Train the head of a length predictor");
  add_data_options(*app, o->data);
  app->add_option("--out", o->out, "Folder for the head and its report")->required();
  app->add_option("--name", o->name, "Of the files in it; default: the kind");
  app->add_option("--objective", o->objective, "Loss")
      ->check(CLI::IsMember({"likelihood", "paper", "histogram", "median", "ssjf", "ltr"}));
  app->add_option("--head", o->head, "Network")
      ->check(CLI::IsMember({"linear", "mlp", "histogram"}));
  app->add_option("--members", o->train.members, "Networks of other seeds that are averaged")
      ->check(CLI::Range(1, 64));
  app->add_option("--answers", o->train.answers, "Use so many answers a prompt; 0 = all")
      ->check(CLI::Range(0, 1000));
  app->add_option("--epochs", o->train.epochs, "At most")->check(CLI::Range(1, 100000));
  app->add_option("--patience", o->train.patience, "Epochs without a better validation loss")
      ->check(CLI::Range(1, 100000));
  app->add_option("--batch", o->train.batch, "Prompts per step")->check(CLI::Range(1, 65536));
  app->add_option("--learning-rate", o->train.learning_rate, "Highest")
      ->check(CLI::Range(1e-8, 1.0));
  app->add_option("--weight-decay", o->train.weight_decay, "Of AdamW")
      ->check(CLI::Range(0.0, 100.0));
  app->add_option("--dropout", o->train.trunk_dropout, "In the trunk")
      ->check(CLI::Range(0.0, 0.95));
  app->add_flag("--weighted-sampling", o->train.weighted_sampling,
                "The paper's: long answers more");
  app->add_option("--trunk", o->train.trunk, "Widths of the common layers of --head mlp");
  app->add_option("--stack", o->train.stack, "Width of each number's own layer; 0 = none")
      ->check(CLI::Range(0, predict::LengthHead::kMaxWidth));
  app->add_option("--nu", o->train.nu, "Degrees of freedom of the log-t")
      ->check(CLI::Range(1.0, 100.0));
  app->add_flag("--fixed-nu", o->fixed_nu, "Keep --nu; else validation prompts choose");
  app->add_option("--seed", o->train.seed, "Of weights, order and dropout");
  add_tuning_options(*app, *o);
  app->add_flag("--resume", o->train.resume, "Go on with a killed run of the same options");
  app->add_flag("--no-cache", o->no_cache, "Compute the encoder's features again");
  app->add_option("--resamples", o->resamples, "Of the bootstrap")->check(CLI::Range(0, 100000));
  app->option_defaults()->always_capture_default();
  return {app, [o] {
            const auto done = train(*o);
            if (done) return 0;
            show("");
            std::fprintf(stderr, "tailor-predictor: %s\n", done.error().message.c_str());
            return 1;
          }};
}

}  // namespace

std::vector<PredictorCommand> add_training_commands(CLI::App& app) {
  return {add_train(app), add_predictor_eval(app), add_predictor_bench(app)};
}

}  // namespace tailor::launch
