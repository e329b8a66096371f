#include "predict/model/trainer.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "predict/evaluation.h"
#include "predict/model/head_net_torch.h"
#include "predict/model/losses_torch.h"
#include "predict/model/recalibrate.h"
#include "tie/fit.h"
#include "tie/law.h"

namespace tailor::predict {
namespace {

using testing::HasSubstr;

at::Tensor doubles(const std::vector<double>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kDouble));
}

double at_0(const at::Tensor& t) { return t.flatten()[0].item<double>(); }

TEST(Losses, LogTGradientsEqualFiniteDifferences) {
  const tie::LawMath math;
  for (const bool cut : {false, true}) {
    for (const double y : {2.0, 5.0, 9.0}) {
      for (const double sigma : {0.1, 0.7, 2.0}) {
        const auto loss = [&](double mu, double s) {
          return log_t_loss(doubles({y}), at::full({1}, cut), doubles({mu}), doubles({s}), math)
              .item<double>();
        };
        at::Tensor mu = doubles({5.2}).requires_grad_(true);
        at::Tensor s = doubles({sigma}).requires_grad_(true);
        log_t_loss(doubles({y}), at::full({1}, cut), mu, s, math).sum().backward();
        const double h = 1e-4;
        const double by_mu = (loss(5.2 + h, sigma) - loss(5.2 - h, sigma)) / (2 * h);
        const double by_sigma =
            (loss(5.2, sigma * (1 + h)) - loss(5.2, sigma * (1 - h))) / (2 * h * sigma);
        EXPECT_NEAR(at_0(mu.grad()), by_mu, 2e-3 * std::abs(by_mu) + 1e-5) << cut << y << sigma;
        EXPECT_NEAR(at_0(s.grad()), by_sigma, 2e-3 * std::abs(by_sigma) + 1e-5)
            << cut << y << sigma;
      }
    }
  }
}

TEST(Losses, TheLogTLikelihoodIsTheLawsOwn) {
  const tie::LawMath math;
  const LengthLaw law = tie::log_t(4.5, 0.8);
  for (const double length : {3.0, 90.0, 2000.0}) {
    const auto loss = [&](bool cut) {
      return log_t_loss(doubles({std::log(length)}), at::full({1}, cut), doubles({4.5}),
                        doubles({0.8}), math)
          .item<double>();
    };
    // The density of ln X is x f(x).
    EXPECT_NEAR(loss(false), -math.log_density(law, length) - std::log(length), 1e-6);
    EXPECT_NEAR(loss(true), -std::log(math.survival(law, length)), 1e-6);
  }
}

TEST(Losses, HistogramCountsAllThatLiesAboveACutAnswer) {
  const at::Tensor logits = doubles({0.5, -1, 2, 0}).unsqueeze(0);
  const at::Tensor p = at::softmax(logits, 1)[0];
  const at::Tensor one = doubles({0, 1, 0, 0}).unsqueeze(0);
  const at::Tensor above = doubles({0, 0.25, 1, 1}).unsqueeze(0);
  EXPECT_NEAR(histogram_loss(logits, one).item<double>(), -std::log(p[1].item<double>()), 1e-9);
  EXPECT_NEAR(histogram_loss(logits, above).item<double>(),
              -std::log(0.25 * p[1].item<double>() + p[2].item<double>() + p[3].item<double>()),
              1e-9);
}

TEST(Losses, ListMleIsTheLikelihoodOfTheOrder) {
  // Longest first: items 2, 0, 1 with scores 2, 0.5, -1.
  const double expected = (std::log(std::exp(2.) + std::exp(0.5) + std::exp(-1.)) - 2 +
                           std::log(std::exp(0.5) + std::exp(-1.)) - 0.5) /
                          3;
  EXPECT_NEAR(list_mle_loss(doubles({0.5, -1, 2}), doubles({30, 10, 90})).item<double>(), expected,
              1e-9);
}

// A known law: mu linear in the features, sigma in one of them, answers cut at a limit.
struct World {
  FeatureTable table;
  std::vector<double> mu, sigma;
};

World make_world(size_t prompts, int answers, uint64_t seed = 11) {
  const tie::LawMath math;
  tie::UniformStream random(seed);
  World world;
  world.table.width = 6;
  for (size_t i = 0; i < prompts; ++i) {
    std::array<double, 6> x;
    for (double& value : x) value = 4 * random() - 2;
    const double mu = 5 + 0.6 * x[0] - 0.4 * x[3], sigma = 0.35 * std::exp(0.35 * x[1]);
    for (const double value : x) world.table.features.push_back(static_cast<float>(value));
    FeatureRow& row = world.table.rows.emplace_back();
    row.id = "made/" + std::to_string(i);
    row.split = split_of(row.id);
    row.limit = 400;
    for (int k = 0; k < answers; ++k) {
      const double length = std::round(math.quantile(tie::log_t(mu, sigma), random()));
      row.censored.push_back(length >= row.limit);
      row.lengths.push_back(static_cast<uint32_t>(std::clamp(length, 1.0, row.limit)));
    }
    world.mu.push_back(mu), world.sigma.push_back(sigma);
  }
  return world;
}

TrainOptions quick(Objective objective) {
  TrainOptions options;
  options.objective = objective;
  options.trunk = {};
  options.stack = 0;
  options.epochs = 30, options.patience = 30, options.batch = 64;
  options.learning_rate = 0.02;
  options.threads = 1;
  options.choose_nu = false;
  return options;
}

std::vector<JudgedPrompt> judged(const TrainedHead& trained, const FeatureTable& table) {
  const auto head = LengthHead::make(trained.weights);
  std::vector<JudgedPrompt> out;
  for (const size_t i : table.rows_of(Split::kTest))
    out.push_back({head->predict(table.of(i)), table.rows[i].limit, table.rows[i].lengths,
                   table.rows[i].censored});
  return out;
}

TEST(Trainer, FindsAKnownLawFromOneCutAnswerAPrompt) {
  const World world = make_world(3000, 1);
  const auto trained = train_head(world.table, {.kind = "prompt"}, quick(Objective::kLikelihood));
  ASSERT_TRUE(trained) << trained.error().message;
  const auto head = LengthHead::make(trained->weights);
  double error_mu = 0, error_sigma = 0, tests = 0;
  for (const size_t i : world.table.rows_of(Split::kTest)) {
    const LengthLaw law = head->predict(world.table.of(i));
    error_mu += std::abs(static_cast<double>(law.mu) - world.mu[i]);
    error_sigma += std::abs(std::log(static_cast<double>(law.sigma) / world.sigma[i]));
    ++tests;
  }
  EXPECT_LT(error_mu / tests, 0.06);  // mu itself spreads by 0.8
  EXPECT_LT(error_sigma / tests, 0.15);
  const auto world8 = make_world(600, 8, 99);
  const Evaluation seen =
      evaluate(judged(*trained, world8.table), tie::LawMath(), {.resamples = 100});
  EXPECT_NEAR(seen.coverage[1].value, 0.9, 0.03);
  EXPECT_NEAR(seen.spread_slope.value, 1, 0.2);
}

TEST(Trainer, EveryObjectiveOrdersPromptsItNeverSaw) {
  const World world = make_world(1200, 4);
  for (const Objective objective : {Objective::kPaper, Objective::kHistogram, Objective::kMedian,
                                    Objective::kSsjf, Objective::kLtr}) {
    TrainOptions options = quick(objective);
    options.epochs = 20;
    options.weighted_sampling = objective == Objective::kPaper;
    const auto trained = train_head(world.table, {.kind = "prompt"}, options);
    ASSERT_TRUE(trained) << trained.error().message;
    const Evaluation seen =
        evaluate(judged(*trained, world.table), tie::LawMath(), {.resamples = 50});
    EXPECT_GT(seen.tau.value, 0.5) << name_of(objective);
    EXPECT_NEAR(seen.coverage[1].value, 0.9, 0.05) << name_of(objective);
  }
}

TEST(Trainer, RecalibrationMendsAnOverconfidentHead) {
  const World world = make_world(2000, 4);
  TrainOptions options = quick(Objective::kLikelihood);
  options.epochs = 10;
  auto trained = train_head(world.table, {.kind = "prompt"}, options);
  ASSERT_TRUE(trained);
  HeadWeights narrow = trained->weights;
  narrow.target_mean[0] += 0.7;                                     // a wrong level
  narrow.target_mean[1] *= 0.3, narrow.target_deviation[1] *= 0.3;  // and far too sure
  const double before = mean_log_likelihood(narrow, world.table, Split::kTest);
  ASSERT_TRUE(recalibrate(narrow, world.table, {.choose_nu = false}));
  const double after = mean_log_likelihood(narrow, world.table, Split::kTest);
  EXPECT_GT(after, before + 0.2);
  EXPECT_NEAR(after, mean_log_likelihood(trained->weights, world.table, Split::kTest), 0.1);
  const TrainedHead mended{narrow, {}};
  const Evaluation seen = evaluate(judged(mended, world.table), tie::LawMath(), {.resamples = 50});
  EXPECT_NEAR(seen.coverage[1].value, 0.9, 0.03);
}

TEST(Trainer, QuantilesHoldWhereAnswersHaveAShapeThatNoLogTLawHas) {
  World world = make_world(3000, 2);
  tie::UniformStream random(3);
  for (FeatureRow& row : world.table.rows)  // one answer in eight never ends
    for (size_t i = 0; i < row.lengths.size(); ++i)
      if (random() < 0.125)
        row.lengths[i] = static_cast<uint32_t>(row.limit), row.censored[i] = true;
  const auto trained = train_head(world.table, {.kind = "prompt"}, quick(Objective::kMedian));
  ASSERT_TRUE(trained) << trained.error().message;
  const Evaluation seen = evaluate(judged(*trained, world.table),
                                   tie::LawMath(trained->weights.info.nu), {.resamples = 50});
  EXPECT_NEAR(seen.coverage[0].value, 0.5, 0.05);
  EXPECT_NEAR(seen.coverage[1].value, 0.9, 0.02);
}

TEST(Trainer, AKilledRunGoesOnAsIfItHadNotBeen) {
  const World world = make_world(300, 2);
  TrainOptions options = quick(Objective::kLikelihood);
  options.trunk = {16};
  options.stack = 8;
  options.members = 3;
  options.epochs = 4;
  const auto whole = train_head(world.table, {.kind = "prompt"}, options);
  ASSERT_TRUE(whole);
  options.checkpoint =
      testing::TempDir() + "trainer_test_" + std::to_string(getpid()) + ".checkpoint";
  options.resume = true;
  int told = 0;
  Result<TrainedHead> last = fail(ErrorCode::kInternal, "not run");
  for (int kills = 0; kills < 20; ++kills) {
    int epochs = 0;
    last = train_head(world.table, {.kind = "prompt"}, options, [&](const TrainProgress&) {
      ++told;
      return ++epochs < 3;  // stopped at every third epoch
    });
    if (last) break;
    ASSERT_EQ(last.error().code, ErrorCode::kCancelled) << last.error().message;
  }
  ASSERT_TRUE(last);
  EXPECT_EQ(told, 12);
  ASSERT_EQ(last->weights.members.size(), 3u);
  for (size_t m = 0; m < 3; ++m)
    EXPECT_EQ(last->weights.members[m].mu[0].weight, whole->weights.members[m].mu[0].weight);
  ASSERT_EQ(last->curves.size(), 3u);
  for (size_t m = 0; m < 3; ++m) EXPECT_EQ(last->curves[m].size(), 4u);

  options.learning_rate *= 2;  // another training does not go on from it
  const auto other = train_head(world.table, {.kind = "prompt"}, options);
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().message, HasSubstr("another training"));
  std::filesystem::remove(options.checkpoint);
  std::filesystem::remove(options.checkpoint + ".members");
}

TEST(Trainer, BadTablesAreRefusedInOneSentence) {
  FeatureTable table = make_world(50, 1).table;
  table.features[7] = std::nanf("");
  const auto bad = train_head(table, {}, quick(Objective::kLikelihood));
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message, HasSubstr("features must be finite"));
  table.rows.resize(0);
  table.features.clear();
  const auto none = train_head(table, {}, quick(Objective::kLikelihood));
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().message, HasSubstr("needs at least 2 train"));
}

TEST(HeadNet, TheTorchFreeHeadComputesTheSame) {
  at::manual_seed(4);
  for (const bool histogram : {false, true}) {
    HeadNet net({.inputs = 6, .trunk = {24, 16}, .stack = 8, .histogram = histogram});
    HeadWeights weights;
    weights.info.input_size = 6;
    weights.mean = {0.1f, 0, 0, 0.5f, 0, 0}, weights.deviation = {1, 2, 1, 1, 0.5f, 1};
    weights.members = {net.to_member()};
    weights.low = 1, weights.high = 900;
    const auto head = LengthHead::make(weights);
    ASSERT_TRUE(head) << head.error().message;
    const at::Tensor x = at::randn({5, 6});
    const at::Tensor mean = at::from_blob(weights.mean.data(), {6});
    const at::Tensor deviation = at::from_blob(weights.deviation.data(), {6});
    const HeadNet::Output out = net.forward((x - mean) / deviation, false);
    for (int64_t i = 0; i < 5; ++i) {
      const LengthLaw law = head->predict({x.const_data_ptr<float>() + i * 6, 6});
      if (histogram) {
        const at::Tensor p = at::softmax(out.logits[i], 0);
        for (int b = 0; b < LengthLaw::kBins; ++b)
          EXPECT_NEAR(law.bins[b], p[b].item<float>(), 1e-5);
      } else {
        EXPECT_NEAR(law.mu, std::max(-1.f, out.mu[i].item<float>()), 1e-5);
        EXPECT_NEAR(law.sigma, std::max(0.02, std::expm1(out.sigma[i].item<double>())), 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace tailor::predict
