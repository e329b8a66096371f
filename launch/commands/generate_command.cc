// `tailor generate`: one prompt streamed to the terminal, or a file of prompts, one JSON line each
// in its order.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <set>

#include "base/clock.h"
#include "client/open_requests.h"
#include "client/prompt_json.h"
#include "launch/commands/command.h"
#include "launch/commands/sampling_options.h"
#include "launch/commands/terminal.h"
#include "launch/options/number_options.h"

namespace tailor::launch {
namespace {

constexpr int kInterrupted = 130;
constexpr Duration kCancelWait = seconds(1);

struct Options {
  SamplingOptions sampling;
  std::string prompt;
  std::string positional;
  std::string chat;
  std::string system;
  std::string prompts_file;
  CLI::Option* prompt_option = nullptr;
  CLI::Option* positional_option = nullptr;
  CLI::Option* chat_option = nullptr;
  bool json = false;
  double timeout_s = 0;
  double connect_timeout_s = 3;
  size_t parallel = 256;

  std::optional<Duration> timeout() const {
    if (timeout_s <= 0) return std::nullopt;
    return from_seconds(timeout_s);
  }
};

int server_gone(client::OpenRequests& requests, const Error& error) {
  requests.cancel_all(Duration{});
  return print_error(error);
}

// ---- one prompt ----

int finish_text(const Options& options, const client::EndedAnswer& ended,
                InterruptWatch& interrupts) {
  const client::Answer& answer = ended.answer;
  const auto write = [&](std::string_view text) {
    return write_all(STDOUT_FILENO, text, &interrupts);
  };
  const auto unwritten = [&] { return interrupts.interrupted() != 0 ? kInterrupted : 1; };
  if (options.json) {
    if (!write(client::dump_line(answer.to_json()))) return unwritten();
  } else {
    std::string rest;
    for (size_t i = 1; answer.accepted() && i < answer.samples().size(); ++i) {
      rest += "\n--- answer " + std::to_string(i + 1) + " ---\n" + answer.samples()[i].text;
    }
    if (answer.accepted()) rest += "\n";
    if (!write(rest)) return unwritten();
  }
  return answer.error().code == ErrorCode::kOk ? 0 : print_error(answer.error());
}

int generate_one(const Options& options, client::Client& client, InterruptWatch& interrupts) {
  api::Submit submit = options.sampling.submit();
  if (options.chat_option->count() > 0) {
    std::vector<api::ChatMessage> messages;
    if (!options.system.empty()) messages.push_back({"system", options.system});
    messages.push_back({"user", options.chat});
    submit.prompt = std::move(messages);
  } else {
    submit.prompt = options.positional_option->count() > 0 ? options.positional : options.prompt;
  }

  client::OpenRequests requests(client, options.sampling.endpoint, options.timeout());
  bool unwritten = false;
  if (!options.json) {
    requests.on_text = [&](size_t, uint32_t sample, std::string_view text) {
      if (sample == 0 && !unwritten) unwritten = !write_all(STDOUT_FILENO, text, &interrupts);
    };
  }
  if (auto sent = requests.submit(0, std::move(submit)); !sent) return print_error(sent.error());
  while (true) {
    Result<std::vector<client::EndedAnswer>> ended = requests.poll(milliseconds(50));
    if (const bool interrupted = interrupts.interrupted() != 0; interrupted || unwritten) {
      requests.cancel_all(kCancelWait);
      return interrupted ? kInterrupted : 1;
    }
    if (!ended) return server_gone(requests, ended.error());
    if (!ended->empty()) return finish_text(options, ended->front(), interrupts);
  }
}

// ---- a file of prompts ----

/// Reads ahead at most `parallel` lines of what has been printed, keeps the output in the file's
/// order.
class PromptFile {
 public:
  PromptFile(const Options& options, InputLines& input, client::OpenRequests& requests)
      : options_(options),
        input_(input),
        requests_(requests),
        defaults_(options.sampling.submit()) {}

  bool done() const { return input_.at_end() && lines_.empty(); }
  /// Nothing is in work: only the input can bring news.
  bool idle() const { return lines_.empty(); }
  bool any_failed() const { return any_failed_; }

  /// Reads and submits as much as is there and fits. Errors: the client's.
  Result<void> fill() {
    const Time time = now();
    while (!retries_.empty() && retries_.front().at <= time) {
      const size_t tag = retries_.front().tag;
      retries_.pop_front();
      TAILOR_TRY(send(tag));
    }
    while (lines_.size() < options_.parallel) {
      const std::optional<std::string> text = input_.next();
      if (!text) break;
      ++line_number_;
      if (text->find_first_not_of(" \t\r") == std::string::npos) continue;
      TAILOR_TRY(add_line(*text));
    }
    return {};
  }

  void take(client::EndedAnswer ended) {
    Line& line = lines_[ended.tag - first_tag_];
    if (ended.answer.error().code == ErrorCode::kQueueFull && ended.retry_after > Duration{}) {
      retries_.push_back({now() + ended.retry_after, ended.tag});
      return;
    }
    set_output(line, ended.answer.to_json());
  }

  /// False when the reader of stdout is gone or a signal waits.
  bool print_ready(const InterruptWatch& interrupts) {
    std::string out;
    while (!lines_.empty() && !lines_.front().output.empty()) {
      out += lines_.front().output;
      lines_.pop_front();
      ++first_tag_;
    }
    return write_all(STDOUT_FILENO, out, &interrupts);
  }

 private:
  struct Line {
    api::Submit submit;
    nlohmann::json id;
    std::string output;  // empty while open
  };
  struct Retry {
    Time at;
    size_t tag;
  };

  Result<void> add_line(const std::string& text) {
    lines_.emplace_back();
    Result<client::PromptLine> parsed = client::read_prompt_line(text, defaults_);
    if (!parsed) {
      Error error = parsed.error();
      error.message = "line " + std::to_string(line_number_) + ": " + error.message;
      set_output(lines_.back(), {{"error", client::error_to_json(error)}});
      return {};
    }
    for (const std::string& field : parsed->unknown_fields) {
      if (warned_.size() < 32 && warned_.insert(field).second) {
        std::fprintf(stderr, "tailor: line %zu: field '%s' is not known and is ignored\n",
                     line_number_, field.c_str());
      }
    }
    lines_.back().submit = std::move(parsed->submit);
    lines_.back().id = std::move(parsed->id);
    return send(first_tag_ + lines_.size() - 1);
  }

  Result<void> send(size_t tag) {
    Line& line = lines_[tag - first_tag_];
    Result<void> sent = requests_.submit(tag, line.submit);
    if (!sent && sent.error().code == ErrorCode::kInvalidArgument) {
      set_output(line, {{"error", client::error_to_json(sent.error())}});
      return {};
    }
    return sent;
  }

  void set_output(Line& line, nlohmann::json value) {
    if (value.contains("error")) any_failed_ = true;
    if (!line.id.is_null()) value["id"] = line.id;
    line.output = client::dump_line(value);
    line.submit = {};
  }

  const Options& options_;
  InputLines& input_;
  client::OpenRequests& requests_;
  const api::Submit defaults_;
  std::deque<Line> lines_;  // read, not yet printed; at most options_.parallel
  size_t first_tag_ = 0;    // tag of lines_[0]
  std::deque<Retry> retries_;
  std::set<std::string> warned_;
  size_t line_number_ = 0;
  bool any_failed_ = false;
};

int generate_file(const Options& options, client::Client& client, InterruptWatch& interrupts) {
  const int file = options.prompts_file == "-"
                       ? STDIN_FILENO
                       : open(options.prompts_file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info) != 0)
    return print_error({ErrorCode::kNotFound,
                        "cannot read " + options.prompts_file + ": " + std::strerror(errno)});
  if (S_ISDIR(info.st_mode))
    return print_error(
        {ErrorCode::kInvalidArgument,
         "--prompts: expected a file of JSON lines, found the folder " + options.prompts_file});
  InputLines input(file, interrupts);
  client::OpenRequests requests(client, options.sampling.endpoint, options.timeout());
  PromptFile lines(options, input, requests);
  while (true) {
    if (auto filled = lines.fill(); !filled) return server_gone(requests, filled.error());
    const bool printed = lines.print_ready(interrupts);
    if (const bool interrupted = interrupts.interrupted() != 0; interrupted || !printed) {
      requests.cancel_all(kCancelWait);
      return interrupted ? kInterrupted : 1;
    }
    if (lines.done()) return lines.any_failed() ? 1 : 0;
    if (lines.idle()) input.wait(seconds(1));
    Result<std::vector<client::EndedAnswer>> ended =
        requests.poll(lines.idle() ? Duration{} : milliseconds(50));
    if (!ended) return server_gone(requests, ended.error());
    for (client::EndedAnswer& answer : *ended) lines.take(std::move(answer));
  }
}

int run(const Options& options) {
  const int prompts = (options.prompt_option->count() > 0) +
                      (options.positional_option->count() > 0) +
                      (options.chat_option->count() > 0) + !options.prompts_file.empty();
  if (prompts != 1) {
    return print_error({ErrorCode::kInvalidArgument,
                        "give exactly one of PROMPT, --prompt, --chat and --prompts"});
  }
  InterruptWatch interrupts;
  auto client = client::connect_to_cluster(options.sampling.endpoint,
                                           from_seconds(options.connect_timeout_s));
  if (!client) return print_error(client.error());
  return options.prompts_file.empty() ? generate_one(options, **client, interrupts)
                                      : generate_file(options, **client, interrupts);
}

}  // namespace

Command add_generate(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("generate", "Ask the cluster and stream the answer");
  options->positional_option =
      app->add_option("PROMPT", options->positional, "Text to continue")->configurable(false);
  options->prompt_option = app->add_option("--prompt", options->prompt, "Text to continue");
  options->chat_option = app->add_option(
      "--chat", options->chat, "A user's message, answered through the model's chat template");
  app->add_option("--system", options->system, "System message for --chat")
      ->needs(options->chat_option);
  app->add_option("--prompts", options->prompts_file,
                  "A file of JSON objects, one a line (- = standard input): prompt | messages | "
                  "token_ids, and any sampling field; one line out per line in, in its order");
  options->sampling.add_to(*app);
  app->add_option("--n", options->sampling.params.n, "Answers per prompt");
  app->add_option("--logprobs", options->sampling.params.logprobs,
                  "0 = the chosen token's, k = and the k best; -1 = none");
  app->add_flag("--json", options->json, "Print one JSON object a line instead of text");
  app->add_option("--timeout", options->timeout_s, "Seconds a request may take; 0 = no limit")
      ->check(wait_seconds());
  app->add_option("--connect-timeout", options->connect_timeout_s,
                  "Seconds to wait for the cluster's first word")
      ->check(wait_seconds());
  app->add_option("--parallel", options->parallel, "Lines of --prompts in work at once")
      ->check(CLI::Range(1, 65536));
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
