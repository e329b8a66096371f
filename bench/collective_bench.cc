// collective-bench: what an all_gather costs over MPI and over shared memory, alternating, for
// ranks that share this host. Run as
//   mpirun -n 2 --bind-to none build/cpu/bin/collective-bench [--json FILE]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "comm/collective_mpi.h"
#include "comm/collective_shm.h"
#include "comm/mpi_environment.h"

namespace tailor::bench {
namespace {

struct Options {
  int rounds = 101;
  int batch_ms = 2;  // short beside a time slice: what else runs disturbs few of them
  size_t slot_bytes = comm::ShmOptions().slot_bytes;
  std::string json;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

struct Row {
  size_t bytes = 0;
  double mpi_us = 0, shm_us = 0, ratio = 0;   // medians; the ratio's is of the pairs
  double mpi_us_least = 0, shm_us_least = 0;  // of the quickest batch: nothing else ran
};

/// Microseconds a call of `calls` all_gathers in a row.
Result<double> time_batch(comm::Collective& group, size_t bytes, int calls) {
  std::vector<std::byte> mine(bytes);
  std::vector<std::byte> out(bytes * group.size());
  TAILOR_TRY(group.barrier());
  const Time began = now();
  for (int i = 0; i < calls; ++i) {
    // New content, as an engine's: what was not written anew could stay in the receiver's cache.
    std::fill(mine.begin(), mine.end(), static_cast<std::byte>(i));
    TAILOR_TRY(group.all_gather(mine, out));
  }
  return to_seconds(now() - began) * 1e6 / calls;
}

/// As many calls as fill a batch on rank 0, the same on all ranks.
Result<int> calls_of_batch(comm::Collective& group, size_t bytes, int batch_ms) {
  constexpr int kTried = 50;
  TAILOR_ASSIGN(const double us, time_batch(group, bytes, kTried));
  int calls = static_cast<int>(std::clamp(batch_ms * 1000 / us, 20.0, 50'000.0));
  TAILOR_TRY(group.broadcast(std::as_writable_bytes(std::span(&calls, 1)), 0));
  return calls;
}

Result<Row> measure(comm::Collective& mpi, comm::Collective& shm, size_t bytes, const Options& o) {
  TAILOR_ASSIGN(const int mpi_calls, calls_of_batch(mpi, bytes, o.batch_ms));
  TAILOR_ASSIGN(const int shm_calls, calls_of_batch(shm, bytes, o.batch_ms));
  std::vector<double> mpi_us, shm_us, ratio;
  for (int round = 0; round < o.rounds; ++round) {
    TAILOR_ASSIGN(const double by_mpi, time_batch(mpi, bytes, mpi_calls));
    TAILOR_ASSIGN(const double by_shm, time_batch(shm, bytes, shm_calls));
    mpi_us.push_back(by_mpi);
    shm_us.push_back(by_shm);
    ratio.push_back(by_mpi / by_shm);
  }
  const auto least = [](const std::vector<double>& of) {
    return *std::min_element(of.begin(), of.end());
  };
  return Row{bytes, median(mpi_us), median(shm_us), median(ratio), least(mpi_us), least(shm_us)};
}

Result<void> run(const Options& o, comm::Collective& mpi) {
  TAILOR_ASSIGN(const bool one_host, comm::ranks_share_host(mpi));
  if (!one_host)
    return fail(ErrorCode::kUnavailable, "the ranks do not share a host: nothing to compare");
  TAILOR_ASSIGN(auto shm, comm::make_shm_collective(mpi, {.slot_bytes = o.slot_bytes}));
  const bool speaks = mpi.rank() == 0;
  nlohmann::ordered_json json = {
      {"ranks", mpi.size()}, {"rounds", o.rounds}, {"operation", "all_gather"}};
  if (speaks)
    std::printf("%9s  %10s  %10s  %7s  %12s  %12s\n", "bytes", "MPI, us", "shm, us", "ratio",
                "MPI, least", "shm, least");
  for (const size_t bytes : {64, 1024, 4096, 16'384, 65'536, 262'144}) {
    TAILOR_ASSIGN(const Row row, measure(mpi, *shm, bytes, o));
    if (!speaks) continue;
    std::printf("%9zu  %10.2f  %10.2f  %6.2fx  %12.2f  %12.2f\n", row.bytes, row.mpi_us, row.shm_us,
                row.ratio, row.mpi_us_least, row.shm_us_least);
    json["sizes"].push_back({{"bytes", row.bytes},
                             {"mpi_us", row.mpi_us},
                             {"shm_us", row.shm_us},
                             {"ratio", row.ratio},
                             {"mpi_us_least", row.mpi_us_least},
                             {"shm_us_least", row.shm_us_least}});
  }
  if (speaks && !o.json.empty()) {
    std::ofstream file(o.json);
    file << json.dump(2) << "\n";
    if (!file.flush()) return fail(ErrorCode::kInvalidArgument, "cannot write " + o.json);
  }
  return {};
}

int main_of(int argc, char** argv) {
  Options o;
  CLI::App app("all_gather over MPI and over shared memory; start it with mpirun -n RANKS.");
  app.add_option("--rounds", o.rounds, "Alternations; medians are shown")
      ->check(CLI::Range(1, 999));
  app.add_option("--batch-ms", o.batch_ms, "About how long one measurement lasts")
      ->check(CLI::Range(1, 10'000));
  app.add_option("--slot-bytes", o.slot_bytes, "Shared memory: a longer message goes in pieces");
  app.add_option("--json", o.json, "Also write the table to this file");
  CLI11_PARSE(app, argc, argv);
  auto environment = comm::MpiEnvironment::start(&argc, &argv);
  if (!environment)
    return std::fprintf(stderr, "collective-bench: %s\n", to_string(environment.error()).c_str()),
           69;
  comm::MpiEnvironment& mpi = **environment;
  auto communicator = mpi.replica_communicator(mpi.world_size());
  Result<void> done;
  if (!communicator)
    done = fail(communicator.error());
  else
    done = run(o, *comm::make_mpi_collective(*communicator));
  if (done) return 0;
  std::fprintf(stderr, "collective-bench: %s\n", to_string(done.error()).c_str());
  mpi.abandon();
  return 1;
}

}  // namespace
}  // namespace tailor::bench

int main(int argc, char** argv) { return tailor::bench::main_of(argc, argv); }
