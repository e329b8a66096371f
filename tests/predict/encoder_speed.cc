// How fast an encoder is on this machine: encoder_speed [--encoder minilm] [--prompts FILE]
// [--threads N]. FILE: JSON lines with "text". Prints prompts/s and tokens/s at several batch
// sizes; medians of 5 rounds.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "predict/model/encoder.h"
#include "weights/default_model.h"

namespace tailor {
namespace {

struct Options {
  std::string encoder = "minilm";
  std::string prompts = std::string(TAILOR_SOURCE_DIR) + "/launch/quickstart_prompts.jsonl";
  int threads = 1;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Result<void> measure(const Options& options) {
  TAILOR_ASSIGN(const std::string folder, weights::resolve_encoder(options.encoder));
  TAILOR_ASSIGN(const auto encoder, predict::Encoder::load(folder, options.threads));
  std::vector<std::string> prompts;
  std::ifstream file(options.prompts);
  for (std::string line; std::getline(file, line);) {
    const auto entry = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (entry.is_object()) prompts.push_back(entry.value("text", entry.value("prompt", "")));
  }
  size_t tokens = 0;
  for (const std::string& prompt : prompts) {
    TAILOR_ASSIGN(const auto ids, encoder->tokenize(prompt));
    tokens += ids.size();
  }
  const auto count = static_cast<double>(prompts.size());
  std::printf("%s, %d threads, %zu prompts of %.1f tokens on average\n", encoder->name().c_str(),
              options.threads, prompts.size(), static_cast<double>(tokens) / count);
  for (const size_t batch : {size_t{1}, size_t{8}, size_t{32}, prompts.size()}) {
    std::vector<double> seconds;
    for (int round = -1; round < 5; ++round) {  // the first is a warm-up
      const auto began = now();
      for (size_t begin = 0; begin < prompts.size(); begin += batch) {
        const auto part =
            std::span(prompts).subspan(begin, std::min(batch, prompts.size() - begin));
        TAILOR_TRY(encoder->encode(part));
      }
      if (round >= 0) seconds.push_back(std::chrono::duration<double>(now() - began).count());
    }
    const double took = median(seconds);
    std::printf("  calls of %3zu: %7.1f prompts/s %8.0f tokens/s %7.2f ms a call\n", batch,
                count / took, static_cast<double>(tokens) / took,
                took * 1e3 / std::max(1.0, count / static_cast<double>(batch)));
  }
  return {};
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::Options options;
  CLI::App app("Speed of a sentence encoder");
  app.add_option("--encoder", options.encoder, "minilm or a Hugging Face folder");
  app.add_option("--prompts", options.prompts, "JSON lines with \"text\"");
  app.add_option("--threads", options.threads, "math threads");
  CLI11_PARSE(app, argc, argv);
  if (auto done = tailor::measure(options); !done) {
    std::fprintf(stderr, "%s\n", tailor::to_string(done.error()).c_str());
    return 1;
  }
  return 0;
}
