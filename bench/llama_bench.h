// `tailor bench vs-llama`: our CPU engine beside llama.cpp (built by launch/peer-llama) on the same
// GGUF file, threads and batch. Every measurement is a child process of its own, ours and theirs in
// turn (ours first, then theirs first, ...), so that neither inherits the other's memory, threads
// or the machine's mood. Source of the shapes: llama.cpp:tools/batched-bench/README.md.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/peer_report.h"

namespace tailor::bench {

/// Where llama.cpp's programs and the converted files lie: bin/ and models/.
struct PeerFolder {
  std::string path;

  std::string program(const std::string& name) const { return path + "/bin/" + name; }
  /// The default model in `format` ("q4_1", "q4_0", "q8_0", "f16"); Q4_1 is the default file
  /// itself. Errors: InvalidArgument (no such format).
  Result<std::string> model(const std::string& format) const;
};

/// Checks that everything named is there. Errors: NotFound, InvalidArgument: one sentence with what
/// to run.
Result<void> check_peer(const PeerFolder& peer, const std::vector<std::string>& formats);

struct ServerComparison {
  std::string format;
  int threads = 1;
  int rounds = 5;
  int slots = 16;  ///< sequences at once, either side
  int requests = 64;
  int max_tokens = 64;     ///< of each answer, whatever the model says
  double rate = 100;       ///< Poisson arrivals per second: above capacity, so that slots stay full
  int prefill_budget = 0;  ///< of our replica; 0 = its own choice
  std::string flash_attention = "on";
};

/// Through the servers (bench_llama_server.cc): llama-server and a replica of ours, started in turn
/// for each round, given the same token ids at the same times by an open-loop client; greedy.
Result<PeerRow> compare_servers(const PeerFolder& peer, const ServerComparison& options);

/// Adds `vs-llama` to `bench`; returns what runs it.
std::function<Result<void>()> add_vs_llama(CLI::App& bench);

}  // namespace tailor::bench
