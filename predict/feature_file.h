// Feature files: hidden states of the served model beside a length file; what the probes are
// trained on. A header, then records of one size:
//
//   "TLFEAT1\n", u32 bytes of JSON, JSON {"model_fingerprint", "hidden", "layers": [..]}
//   record: u64 id_hash(prompt id), u32 sample, u32 generated, [layers][hidden] F16
//
// generated = 0: the last prompt token (sample 0 only: all samples share it); g > 0: the g-th token
// of that answer as it is fed back. Appended only; a torn record at the end is cut off when a run
// resumes, and a record written twice by a resumed run has the same bytes: readers keep one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace tailor::predict {

struct FeatureHeader {
  std::string model_fingerprint;
  uint32_t hidden = 0;
  std::vector<int32_t> layers;  ///< the state after so many layers, from 1
  friend bool operator==(const FeatureHeader&, const FeatureHeader&) = default;
};

struct FeatureRecord {
  uint64_t prompt = 0;  ///< id_hash of the prompt's id
  uint32_t sample = 0, generated = 0;
  std::vector<float> values;  ///< [hidden] of the layer asked for
};

/// All records at `layer`, without doubles, in order of (prompt, sample, generated).
/// Errors: NotFound, InvalidArgument (not a feature file; no such layer: names those there).
Result<std::vector<FeatureRecord>> read_features(const std::string& path, int32_t layer,
                                                 FeatureHeader* header = nullptr);

class FeatureWriter {
 public:
  /// Creates the file or goes on behind its last whole record. Errors: InvalidArgument (another
  /// model or other layers), Unavailable.
  static Result<FeatureWriter> open(const std::string& path, const FeatureHeader& header);
  FeatureWriter(FeatureWriter&&) noexcept;
  ~FeatureWriter();

  /// `values` [layers, hidden].
  Result<void> append(uint64_t prompt, uint32_t sample, uint32_t generated,
                      std::span<const float> values);
  /// What was appended is in the kernel's hands when this returns.
  Result<void> flush();

 private:
  FeatureWriter(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
  std::vector<std::byte> pending_;
};

}  // namespace tailor::predict
