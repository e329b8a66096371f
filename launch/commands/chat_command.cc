// `tailor chat`: a conversation. The history is sent with every turn; Ctrl-C cancels the answer,
// not the program; SIGTERM ends both.
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>

#include "client/open_requests.h"
#include "launch/commands/command.h"
#include "launch/commands/sampling_options.h"
#include "launch/commands/terminal.h"

namespace tailor::launch {
namespace {

struct Options {
  SamplingOptions sampling;
  std::string system;
};

constexpr const char* kHelp =
    "/reset forgets the conversation, /system TEXT sets the system message, /quit leaves; "
    "Ctrl-C stops an answer.\n";

constexpr int kTerminated = 128 + SIGTERM;

class Chat {
 public:
  Chat(const Options& options, client::Client& client, InterruptWatch& interrupts)
      : options_(options), client_(client), interrupts_(interrupts), system_(options.system) {}

  int run() {
    if (isatty(STDIN_FILENO)) say(kHelp);
    while (true) {
      if (isatty(STDIN_FILENO)) say("\n> ");
      std::optional<std::string> line = read_line();
      if (!line) return terminated_ ? kTerminated : 0;
      if (*line == "/quit" || *line == "/exit") return 0;
      if (line->empty()) continue;
      if (line->front() == '/') {
        command(*line);
      } else if (int code = turn(*line); code != 0) {
        return code;
      }
    }
  }

 private:
  void say(std::string_view text) { (void)write_all(STDOUT_FILENO, text, &interrupts_); }

  /// Nothing at the end of input and on SIGTERM. Ctrl-C discards what was typed.
  std::optional<std::string> read_line() {
    while (true) {
      if (const size_t end = typed_.find('\n'); end != std::string::npos) {
        std::string line = typed_.substr(0, end);
        typed_.erase(0, end + 1);
        if (!line.empty() && line.back() == '\r') line.pop_back();
        return line;
      }
      pollfd items[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupts_.fd(), POLLIN, 0}};
      if (poll(items, 2, -1) < 0) continue;
      if (const int signal = interrupts_.interrupted(); signal != 0) {
        terminated_ = signal == SIGTERM;
        if (terminated_) return std::nullopt;
        typed_.clear();
        say("\n(/quit or Ctrl-D leaves)\n> ");
        continue;
      }
      char buffer[4096];
      const ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
      if (got > 0) {
        typed_.append(buffer, static_cast<size_t>(got));
      } else if (typed_.empty()) {
        return std::nullopt;
      } else {
        return std::exchange(typed_, {});
      }
    }
  }

  void command(const std::string& line) {
    if (line == "/reset") {
      history_.clear();
      say("The conversation is forgotten.\n");
    } else if (line.rfind("/system", 0) == 0) {
      const size_t start = line.find_first_not_of(" \t", 7);
      system_ = start == std::string::npos ? "" : line.substr(start);
      say(system_.empty() ? "No system message.\n" : "System message set.\n");
    } else {
      say(kHelp);
    }
  }

  api::Submit submit() const {
    api::Submit submit = options_.sampling.submit();
    std::vector<api::ChatMessage> messages;
    if (!system_.empty()) messages.push_back({"system", system_});
    messages.insert(messages.end(), history_.begin(), history_.end());
    submit.prompt = std::move(messages);
    return submit;
  }

  /// One question and its answer; not 0 when the program must end.
  int turn(const std::string& text) {
    history_.push_back({"user", text});
    while (true) {
      client::OpenRequests requests(client_, options_.sampling.endpoint, std::nullopt);
      std::string answer;
      WordWrap wrap;
      requests.on_text = [&](size_t, uint32_t, std::string_view piece) {
        answer += piece;
        say(wrap.add(piece, terminal_columns(STDOUT_FILENO)));
      };
      Result<void> sent = requests.submit(0, submit());
      if (!sent) return print_error(sent.error());
      Result<std::vector<client::EndedAnswer>> ended;
      int stopped = 0;
      do {
        ended = requests.poll(milliseconds(50));
        stopped = interrupts_.interrupted();
      } while (stopped == 0 && ended && ended->empty());
      if (stopped != 0) {
        requests.cancel_all(seconds(1));
        say(wrap.rest());
        if (stopped == SIGTERM) return kTerminated;
        say("\n(stopped)\n");
        return remember(answer);
      }
      say(wrap.rest());
      if (!ended) return print_error(ended.error());
      const Error& error = ended->front().answer.error();
      if (error.code == ErrorCode::kOk) {
        say("\n");
        return remember(answer);
      }
      if (error.code == ErrorCode::kLimitExceeded && forget_oldest()) continue;
      (void)print_error(error);
      history_.pop_back();
      return 0;
    }
  }

  int remember(const std::string& answer) {
    if (answer.empty()) {
      history_.pop_back();
    } else {
      history_.push_back({"assistant", answer});
    }
    return 0;
  }

  /// Drops the oldest question and answer. False when only the last question is left.
  bool forget_oldest() {
    if (history_.size() < 3) return false;
    history_.erase(history_.begin(), history_.begin() + 2);
    std::fprintf(
        stderr,
        "(the conversation has outgrown the model's context: its oldest part is forgotten)\n");
    return true;
  }

  const Options& options_;
  client::Client& client_;
  InterruptWatch& interrupts_;
  std::string system_;
  std::vector<api::ChatMessage> history_;
  std::string typed_;
  bool terminated_ = false;
};

int run(const Options& options) {
  InterruptWatch interrupts;
  auto client = client::connect_to_cluster(options.sampling.endpoint, seconds(3));
  if (!client) return print_error(client.error());
  return Chat(options, **client, interrupts).run();
}

}  // namespace

Command add_chat(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("chat", "Talk with the model, turn by turn");
  app->add_option("--system", options->system, "System message");
  options->sampling.add_to(*app);
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
