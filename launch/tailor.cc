// The `tailor` program; see launch/commands/.
#include "launch/commands/command.h"
#include "launch/options/program_start.h"

int main(int argc, char** argv) {
  tailor::launch::open_standard_streams();
  return tailor::launch::run_tailor(argc, argv);
}
