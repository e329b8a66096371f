// `tailor-predictor serve`: answers the coordinator's questions about prompts, in batches. One
// thread thinks (encoder and head), one talks (comm/predictor_io.h). It joins no MPI, and nobody
// waits for it: killed, stopped or slow, requests run by the population law.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace tailor::launch {

/// Adds the subcommand; call the function when it was chosen: serves until SIGTERM or SIGINT and
/// gives the exit code. SIGTERM and SIGINT must not be blocked by the caller's threads.
std::function<int()> add_predictor_serve(CLI::App& app);

}  // namespace tailor::launch
