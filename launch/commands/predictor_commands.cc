// `tailor train-predictor` and `tailor eval-predictor`: the program beside this one does the work,
// so that `tailor` itself needs no libtorch. Their words are that program's to read, --help too.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "launch/commands/command.h"

namespace tailor::launch {
namespace {

struct PassedOn {
  const char *name, *word, *what;
};
constexpr PassedOn kPassedOn[] = {
    {"train-predictor", "train", "Train the head of a length predictor from length files"},
    {"eval-predictor", "eval", "Judge length predictors by prompts they never saw"},
};

}  // namespace

void list_passed_on(CLI::App& app) {
  for (const PassedOn& each : kPassedOn) app.add_subcommand(each.name, each.what);
}

std::optional<int> run_passed_on(int argc, char** argv) {
  for (const PassedOn& each : kPassedOn) {
    if (argc < 2 || std::strcmp(argv[1], each.name) != 0) continue;
    std::string program = own_folder() + "/tailor-predictor", word = each.word;
    std::vector<char*> words = {program.data(), word.data()};
    words.insert(words.end(), argv + 2, argv + argc);
    words.push_back(nullptr);
    execv(program.c_str(), words.data());
    return print_error({ErrorCode::kNotFound, program + ": " + std::strerror(errno)});
  }
  return std::nullopt;
}

}  // namespace tailor::launch
