// Greedy tokens and logits of an engine in F32 against stored values of Hugging Face transformers
// in fp32 (tests/fixtures/parity, tools/make_parity_fixtures.py). One binary per engine
// (parity_engine.h): alone it is tp 1, under mpirun -n N it is tp N.
//
// Tokens must be equal. A first difference counts as equal only where the reference's two best
// logits lie closer than kTieGap, and only for the runner-up; the rest of that answer is then not
// compared. Logits, as far as the tokens before them agree, must lie within kLogitTolerance. In
// BF16 both are wider, and a first difference may be any token within the gap.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "comm/collective_mpi.h"
#include "comm/mpi_environment.h"
#include "tests/parallel/greedy.h"
#include "tests/parallel/parity_engine.h"
#include "weights/default_model.h"

namespace tailor::parallel::testing {
namespace {

const double kTieGap = parity_in_bf16() ? 0.25 : 0.01;
const double kLogitTolerance = parity_in_bf16() ? 0.25 : 0.001;

/// Set once in main, before any test: the replica this process is a rank of.
std::unique_ptr<comm::MpiEnvironment> mpi;
std::unique_ptr<comm::Collective> collective;

TpContext tp_context() {
  if (!collective) return {};
  return {collective->rank(), collective->size(), collective.get()};
}

struct Fixture {
  std::string id;
  Job job;
  std::vector<TokenId> tokens, seconds;
  std::vector<double> gaps;
  struct Logits {
    size_t position;
    std::vector<size_t> ids;
    std::vector<double> values;
  };
  std::vector<Logits> logits;
};

std::vector<Fixture> read_fixtures(const std::string& name) {
  std::ifstream file(std::string(TAILOR_SOURCE_DIR) + "/tests/fixtures/parity/" + name + ".jsonl");
  std::vector<Fixture> fixtures;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    Fixture fixture;
    fixture.id = json["id"];
    fixture.tokens = json["token_ids"].get<std::vector<TokenId>>();
    fixture.seconds = json["second_ids"].get<std::vector<TokenId>>();
    fixture.gaps = json["gaps"].get<std::vector<double>>();
    fixture.job = {json["prompt_token_ids"].get<std::vector<TokenId>>(),
                   static_cast<int32_t>(fixture.tokens.size())};
    for (const auto& row : json["logits"]) {
      fixture.logits.push_back({row["position"], row["ids"].get<std::vector<size_t>>(),
                                row["values"].get<std::vector<double>>()});
    }
    fixtures.push_back(std::move(fixture));
  }
  return fixtures;
}

/// A reference position whose two best logits are a tie, before which everything must agree.
size_t comparable_tokens(const Fixture& fixture, const std::vector<TokenId>& tokens) {
  for (size_t p = 0; p < fixture.tokens.size(); ++p) {
    if (p < tokens.size() && tokens[p] == fixture.tokens[p]) continue;
    return p;
  }
  return fixture.tokens.size();
}

class Model {
 public:
  static std::unique_ptr<Model> open(const std::string& path) {
    auto model = std::make_unique<Model>();
    auto files = weights::WeightFiles::open(path);
    EXPECT_TRUE(files.has_value()) << to_string(files.error());
    if (!files) return nullptr;
    auto engine = make_parity_engine(**files, tp_context());
    EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
    if (!engine) return nullptr;
    model->engine_ = std::move(*engine);
    model->server_ = std::make_unique<GreedyServer>(*model->engine_, tp_context());
    return model;
  }

  void expect_parity(const std::vector<Fixture>& fixtures, const Schedule& schedule) {
    std::vector<Job> jobs;
    for (const Fixture& fixture : fixtures) jobs.push_back(fixture.job);
    std::vector<std::vector<std::vector<float>>> seen(fixtures.size());
    const auto keep = [&](size_t job, size_t position, std::span<const float> logits) {
      for (const auto& wanted : fixtures[job].logits) {
        if (wanted.position == position) seen[job].emplace_back(logits.begin(), logits.end());
      }
    };
    auto answers = server_->run(jobs, schedule, keep);
    ASSERT_TRUE(answers.has_value()) << to_string(answers.error());
    if (tp_context().rank != 0) return;
    int equal = 0, ties = 0;
    double worst = 0;
    for (size_t i = 0; i < fixtures.size(); ++i) {
      const Fixture& fixture = fixtures[i];
      const std::vector<TokenId>& tokens = (*answers)[i].tokens;
      const size_t same = comparable_tokens(fixture, tokens);
      equal += same == fixture.tokens.size();
      if (same < fixture.tokens.size()) {
        ++ties;
        EXPECT_LT(fixture.gaps[same], kTieGap)
            << fixture.id << ": token " << same << " is " << tokens[same] << ", reference "
            << fixture.tokens[same];
        if (!parity_in_bf16()) {
          EXPECT_EQ(tokens[same], fixture.seconds[same]) << fixture.id << ": token " << same;
        }
      }
      ASSERT_EQ(seen[i].size(), fixture.logits.size()) << fixture.id;
      for (size_t row = 0; row < fixture.logits.size(); ++row) {
        const Fixture::Logits& wanted = fixture.logits[row];
        if (wanted.position > same) continue;
        for (size_t k = 0; k < wanted.ids.size(); ++k) {
          worst = std::max(
              worst, std::abs(wanted.values[k] - static_cast<double>(seen[i][row][wanted.ids[k]])));
        }
      }
    }
    EXPECT_LT(worst, kLogitTolerance);
    std::printf(
        "tp %d, batch %d, chunks of %d: %d answers equal, %d differ first at a tie, largest logit "
        "difference %.2g\n",
        tp_context().size, schedule.batch, schedule.chunk_rows, equal, ties, worst);
  }

 private:
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GreedyServer> server_;
};

/// TAILOR_PARITY_ALONE limits the prompts of the slow one-by-one pass of the default model,
/// TAILOR_PARITY_SMALL_ALONE those of the small ones; the nightly tests leave both unset. With
/// TAILOR_PARITY_IF_THERE the default model may be missing.
size_t alone_limit(const char* name) {
  const char* limit = std::getenv(name);
  return limit != nullptr ? static_cast<size_t>(std::atoi(limit)) : SIZE_MAX;
}

TEST(Parity, DefaultModelAloneAndInABatchOf16) {
  std::vector<Fixture> fixtures = read_fixtures("default");
  ASSERT_GE(fixtures.size(), 40u) << "tests/fixtures/parity/default.jsonl";
  auto path = weights::resolve_model("default");
  if (!path && std::getenv("TAILOR_PARITY_IF_THERE") != nullptr)
    GTEST_SKIP() << path.error().message;
  ASSERT_TRUE(path.has_value()) << to_string(path.error());
  auto model = Model::open(*path);
  ASSERT_NE(model, nullptr);
  model->expect_parity(fixtures, {16, 23});
  fixtures.resize(std::min(fixtures.size(), alone_limit("TAILOR_PARITY_ALONE")));
  model->expect_parity(fixtures, {});
}

class SmallParity : public ::testing::TestWithParam<const char*> {};

TEST_P(SmallParity, AloneAndInABatchOf16) {
  const std::string name = GetParam();
  const std::vector<Fixture> fixtures = read_fixtures(name);
  ASSERT_GE(fixtures.size(), 8u) << name;
  const std::string path = std::string(TAILOR_SOURCE_DIR) + "/tests/fixtures/models/" + name;
  if (name == "llama32_small" && tp_context().size > 2) {
    auto files = weights::WeightFiles::open(path);
    ASSERT_TRUE(files.has_value()) << to_string(files.error());
    auto refused = make_parity_engine(**files, tp_context());
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(refused.error().message.find("2 attention units"), std::string::npos)
        << refused.error().message;
    return;
  }
  auto model = Model::open(path);
  ASSERT_NE(model, nullptr);
  model->expect_parity(fixtures, {16, 7});
  std::vector<Fixture> few = fixtures;
  few.resize(std::min(few.size(), alone_limit("TAILOR_PARITY_SMALL_ALONE")));
  for (const Schedule& schedule : {Schedule{}, Schedule{1, 5}}) model->expect_parity(few, schedule);
}

INSTANTIATE_TEST_SUITE_P(Models, SmallParity,
                         ::testing::Values("llama2_small", "llama31_small", "llama32_small"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tailor::parallel::testing

int main(int argc, char** argv) {
  namespace t = tailor::parallel::testing;
  ::testing::InitGoogleTest(&argc, argv);
  tailor::init_logging("parity", "warn");
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) {
    auto environment = tailor::comm::MpiEnvironment::start(&argc, &argv);
    if (!environment)
      return std::fprintf(stderr, "%s\n", tailor::to_string(environment.error()).c_str()), 1;
    t::mpi = std::move(*environment);
    auto communicator = t::mpi->replica_communicator(t::mpi->world_size());
    if (!communicator)
      return std::fprintf(stderr, "%s\n", tailor::to_string(communicator.error()).c_str()), 1;
    t::collective = tailor::comm::make_mpi_collective(*communicator);
  }
  const int failed = RUN_ALL_TESTS();
  if (failed && t::mpi) t::mpi->abandon();  // the other ranks may be elsewhere
  t::collective.reset();
  t::mpi.reset();
  return failed;
}
