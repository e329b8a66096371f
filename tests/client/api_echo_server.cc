// A process that serves the request API without a model (echo_coordinator.h), for clients in other
// languages. Usage: api_echo_server [endpoint]. Prints the endpoint it is bound to; ends when its
// standard input does.
#include <poll.h>
#include <unistd.h>

#include <iostream>

#include "base/log.h"
#include "tests/client/echo_coordinator.h"

int main(int argc, char** argv) {
  using namespace tailor;  // NOLINT
  init_logging("echo", "warn");
  comm::CoordinatorIoOptions options;
  options.api_endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:*";
  options.control_endpoint = "tcp://127.0.0.1:*";
  options.link_key = *comm::make_link_key({1});
  options.max_prompt_bytes = 1 << 20;
  auto io = comm::CoordinatorIo::start(options);
  if (!io) {
    std::cerr << to_string(io.error()) << std::endl;
    return 1;
  }
  std::cout << (*io)->api_endpoint() << std::endl;
  client::test::EchoCoordinator echo(**io);
  for (;;) {
    echo.turn(milliseconds(20));
    pollfd input{STDIN_FILENO, POLLIN, 0};
    char byte;
    if (poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0) return 0;
  }
}
