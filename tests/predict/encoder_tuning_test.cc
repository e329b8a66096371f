// Tuning of an encoder's layers with the head, on the small BERT of the fixtures and prompts whose
// answer length hangs on which two words they share.
#include "predict/model/encoder_tuning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <filesystem>

#include "predict/evaluation.h"
#include "tie/fit.h"
#include "weights/safetensors_file.h"

namespace tailor::predict {
namespace {

using testing::HasSubstr;

const std::string kEncoder = std::string(TAILOR_SOURCE_DIR) + "/tests/fixtures/encoder/bert_small";

struct World {
  PromptFeatures features;
  std::vector<std::string> texts;
  FeatureTable table;
  HeadInfo info;
};

/// Long answers where exactly one of two words is there: nothing that is linear in word counts.
World make_world(size_t prompts) {
  World world{PromptFeatures::open(kEncoder, 1).value(), {}, {}, {.kind = "prompt"}};
  tie::UniformStream random(7);
  constexpr std::array<const char*, 6> kFill = {"write", "a", "list", "about", "the", "sea"};
  for (size_t i = 0; i < prompts; ++i) {
    const bool first = random() < 0.5, second = random() < 0.5;
    std::string text;
    for (int w = 0; w < 6; ++w) text += std::string(kFill[static_cast<size_t>(random() * 6)]) + " ";
    if (first) text += "france ";
    if (second) text += "what";
    FeatureRow& row = world.table.rows.emplace_back();
    row.id = "made/" + std::to_string(i);
    row.split = split_of(row.id);
    row.limit = 2000;
    for (int k = 0; k < 2; ++k) {
      const double ln = (first != second ? 6 : 3.5) + random() - 0.5;
      row.lengths.push_back(static_cast<uint32_t>(std::exp(ln)));
      row.censored.push_back(false);
    }
    world.texts.push_back(text);
  }
  world.table.width = world.features.size();
  world.table.features = world.features.compute(world.texts).value();
  world.info.encoder = world.features.name();
  world.info.encoder_fingerprint = world.features.encoder_fingerprint();
  return world;
}

TrainOptions head_options() {
  TrainOptions options;
  options.objective = Objective::kMedian;
  options.trunk = {}, options.stack = 0;
  options.epochs = 20, options.patience = 20;
  options.learning_rate = 0.01;
  options.threads = 1;
  return options;
}

TuneOptions tune_options() {
  TuneOptions options;
  options.layers = 3;
  options.learning_rate = 3e-3, options.head_learning_rate = 0.01;
  options.epochs = 8, options.patience = 8;
  return options;
}

std::string file_name(const std::string& end) {
  return testing::TempDir() + "encoder_tuning_test_" + std::to_string(getpid()) + end;
}

double tau_of(const HeadWeights& weights, const FeatureTable& table) {
  const auto head = LengthHead::make(weights).value();
  std::vector<JudgedPrompt> judged;
  for (const size_t i : table.rows_of(Split::kTest))
    judged.push_back({head.predict(table.of(i)), table.rows[i].limit, table.rows[i].lengths,
                      table.rows[i].censored});
  return evaluate(judged, tie::LawMath(), {.resamples = 10}).tau.value;
}

TEST(EncoderTuning, LearnsWhatTheFrozenEncoderDoesNotShow) {
  World world = make_world(1000);
  const auto frozen = train_head(world.table, world.info, head_options());
  ASSERT_TRUE(frozen) << frozen.error().message;
  const double before = tau_of(frozen->weights, world.table);
  TuneOptions tune = tune_options();
  tune.epochs = 30, tune.patience = 30;
  const auto tuned =
      train_in_stages(world.features, world.texts, world.table, world.info, head_options(), tune);
  ASSERT_TRUE(tuned) << tuned.error().message;
  const double after = tau_of(tuned->head.weights, world.table);
  EXPECT_LT(before, 0.3);
  EXPECT_GT(after, before + 0.2);
  EXPECT_FALSE(tuned->tuning.empty());

  // The tuned layers come back from their file: same encoder, same features.
  const std::string file = file_name(".safetensors");
  ASSERT_TRUE(save_tuned_layers(*world.features.encoder(), tune, file));
  const auto again = PromptFeatures::open(kEncoder, 1, file);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->encoder_fingerprint(), tuned->head.weights.info.encoder_fingerprint);
  EXPECT_NE(again->encoder_fingerprint(), frozen->weights.info.encoder_fingerprint);
  EXPECT_EQ(again->compute(world.texts).value(), world.table.features);
  std::filesystem::remove(file);
}

TEST(EncoderTuning, BiasesAloneAreTunedWhereThatIsAskedFor) {
  World world = make_world(300);
  TuneOptions tune = tune_options();
  tune.biases_only = true, tune.epochs = 3;
  const auto tuned =
      train_in_stages(world.features, world.texts, world.table, world.info, head_options(), tune);
  ASSERT_TRUE(tuned) << tuned.error().message;
  const std::string file = file_name("-biases.safetensors");
  ASSERT_TRUE(save_tuned_layers(*world.features.encoder(), tune, file));
  const auto stored = weights::SafetensorsFile::open(file);
  ASSERT_TRUE(stored);
  EXPECT_EQ(stored->tensors().size(), 3u * 10);  // q, k, v, out, two of the MLP; two norms of two
  for (const auto& tensor : stored->tensors()) EXPECT_EQ(tensor.shape.size(), 1u) << tensor.name;
  const auto again = PromptFeatures::open(kEncoder, 1, file);  // all else is as it was
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->compute(world.texts).value(), world.table.features);
  std::filesystem::remove(file);
}

TEST(EncoderTuning, AKilledRunGoesOnAsIfItHadNotBeen) {
  TuneOptions tune = tune_options();
  tune.layers = 1, tune.epochs = 4;
  World world = make_world(150);
  const auto whole =
      train_in_stages(world.features, world.texts, world.table, world.info, head_options(), tune);
  ASSERT_TRUE(whole) << whole.error().message;

  TrainOptions train = head_options();
  train.resume = true;
  tune.checkpoint = file_name("-encoder.checkpoint");
  Result<StagedHead> last = fail(ErrorCode::kInternal, "not run");
  int kills = 0;
  for (; kills < 20; ++kills) {
    World fresh = make_world(150);  // what a new process would load
    int epochs = 0;
    last = train_in_stages(fresh.features, fresh.texts, fresh.table, fresh.info, train, tune,
                           [&](const TrainProgress& p) { return !p.of_encoder || ++epochs < 2; });
    if (last) break;
    ASSERT_EQ(last.error().code, ErrorCode::kCancelled) << last.error().message;
  }
  ASSERT_TRUE(last);
  EXPECT_GE(kills, 1);
  EXPECT_EQ(last->head.weights.info.encoder_fingerprint,
            whole->head.weights.info.encoder_fingerprint);
  EXPECT_EQ(last->head.weights.members[0].mu[0].weight,
            whole->head.weights.members[0].mu[0].weight);

  tune.learning_rate *= 2;  // another tuning does not go on from it
  World other = make_world(150);
  const auto refused =
      train_in_stages(other.features, other.texts, other.table, other.info, train, tune);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("another training"));
  std::filesystem::remove(tune.checkpoint);
}

TEST(EncoderTuning, LayersThatAreComputedAgainGiveTheSameAsKeptOnes) {
  TuneOptions tune = tune_options();
  tune.layers = 1, tune.epochs = 2;
  World kept = make_world(100), computed = make_world(100);
  const auto with =
      train_in_stages(kept.features, kept.texts, kept.table, kept.info, head_options(), tune);
  std::string said;
  tune.kept_bytes = 1000;
  tune.say = [&](const std::string& line) { said += line; };
  const auto without = train_in_stages(computed.features, computed.texts, computed.table,
                                       computed.info, head_options(), tune);
  ASSERT_TRUE(with);
  ASSERT_TRUE(without);
  EXPECT_THAT(said, HasSubstr("every batch computes them again"));
  ASSERT_EQ(with->tuning.size(), without->tuning.size());
  for (size_t i = 0; i < with->tuning.size(); ++i)
    EXPECT_NEAR(with->tuning[i].validation, without->tuning[i].validation, 1e-4);
}

TEST(EncoderTuning, LexicalFeaturesHaveNoEncoderToTune) {
  auto features = PromptFeatures::open("lexical", 1).value();
  World world = make_world(60);
  world.table.width = features.size();
  world.table.features = features.compute(world.texts).value();
  const auto refused = train_in_stages(features, world.texts, world.table, world.info,
                                       head_options(), tune_options());
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("needs an encoder, found features lexical"));
}

}  // namespace
}  // namespace tailor::predict
