// Runs the `tailor` program as a user does.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace tailor::launch {

struct Ran {
  int code = -1;
  std::string out;  // stdout and stderr
};

inline Ran tailor(const std::string& arguments) {
  Ran ran;
  FILE* pipe = popen((TAILOR_BINARY_DIR "/bin/tailor " + arguments + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (const size_t got = fread(buffer, 1, sizeof buffer, pipe)) ran.out.append(buffer, got);
  const int status = pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ran;
}

}  // namespace tailor::launch
