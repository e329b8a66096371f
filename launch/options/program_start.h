// What every program of Tailor does before anything else.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <string>

#include "launch/options/number_options.h"

namespace tailor::launch {

/// Standard streams that the caller closed are /dev/null from now on: otherwise the next socket or
/// file would get their numbers, and what is printed would go there.
inline void open_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd)
    if (fcntl(fd, F_GETFD) < 0) [[maybe_unused]]
      const int lowest = open("/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY);
}

/// A bad option is said behind the program's name: by it the supervisor finds the sentence among
/// what mpirun prints.
inline void name_option_failures(CLI::App& app, const std::string& program) {
  app.failure_message([program](const CLI::App* app, const CLI::Error& error) {
    return program + ": " + sentence_of(*app, error) + "\n";
  });
}

}  // namespace tailor::launch
