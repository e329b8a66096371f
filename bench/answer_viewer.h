// Shows a few answers of a load run on a terminal while they stream: one at a time, so that they
// can be read; the others are kept until their turn. Owner: the calling thread.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "base/api.h"

namespace tailor::bench {

class AnswerViewer {
 public:
  /// Shows the requests [0, prompts.size()) of the run, in order, to `out`.
  AnswerViewer(std::vector<std::string> prompts, std::FILE* out);

  /// For LoadOptions::on_event.
  void take(const api::ServerEvent& event, size_t request_index);

 private:
  struct Answer {
    std::string prompt;
    std::string unshown;
    bool started = false;
    bool ended = false;
  };
  void show_what_can_be_shown();

  std::vector<Answer> answers_;
  size_t current_ = 0;
  std::FILE* out_;
};

}  // namespace tailor::bench
