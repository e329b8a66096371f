// The `tailor` program; see launch/commands/.
#include "launch/commands/command.h"

int main(int argc, char** argv) { return tailor::launch::run_tailor(argc, argv); }
