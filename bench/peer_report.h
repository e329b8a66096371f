// What `tailor bench vs-llama` reads and prints: the lines of a fixed-batch run
// (llama-batched-bench and our own `bench engine-run` write the same), medians, ratios, the table
// and its JSON. Pure.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace tailor::bench {

/// One fixed batch: `batch` sequences prefilled with `prompt_tokens` each, then `decode_tokens`
/// steps. Rates are tokens per second over all sequences, as llama-batched-bench defines S_PP,
/// S_TG.
struct FixedBatch {
  int threads = 0;
  int prompt_tokens = 0;
  int decode_tokens = 0;
  int batch = 0;
  double prompt_per_s = 0;
  double decode_per_s = 0;
};

/// Every fixed batch in a program's output, in its order; other lines (logs) are passed over.
/// Errors: Protocol (no such line, or one without a number it must have): quotes the last line.
Result<std::vector<FixedBatch>> read_fixed_batches(const std::string& output);

/// The line of JSON that read_fixed_batches reads back.
std::string fixed_batch_line(const FixedBatch& batch);

/// One comparison: the same work on either side, one value a round, in tokens per second.
struct PeerRow {
  std::string format;  ///< "q4_1", or "q4_1 vs q4_0": ours, theirs
  int threads = 1;
  int batch = 1;               ///< sequences at once; phase "server": slots
  std::string phase;           ///< "decode", "prompt" or "server"
  int prompt_tokens = 0;       ///< of each sequence; phase "server": the mean
  std::string their_settings;  ///< which of the peer's settings was found best
  std::vector<double> ours, theirs;
};

/// The middle value, or the mean of the two in the middle; 0 for none.
double median(std::vector<double> values);
/// Median of ours over median of theirs; 0 where theirs is 0.
double ratio(const PeerRow& row);

/// A line for each row: medians, ratio, and how far the rounds lay apart.
std::string peer_table(const std::vector<PeerRow>& rows);
/// An array of objects: format, threads, batch, phase, ours, theirs, ratio (medians) and the
/// rounds.
std::string peer_json(const std::vector<PeerRow>& rows);

}  // namespace tailor::bench
