// Length files: how long the answers of a model to real prompts were. What the laws are fitted to
// and the predictors are trained on. JSON lines, plain or gzip: a header, then one line per prompt.
//
//   {"format":"tailor-lengths-1","model":"SmolLM2-135M-Instruct","model_fingerprint":"..",
//    "arithmetic":"cpu-1-stored-kv16","sampling":{"temperature":0.7,"top_k":100,"top_p":0.95,
//    "max_tokens":1024,"seed":1},"samples":8}
//   {"id":"dolly/3514","prompt_tokens":184,"lengths":[34,90],"finish":["stop","length"]}
//
// Lengths count the end token. An answer with finish "length" was cut: it is at least that long
// (censored). A line is written only when all its answers are there, so that a file whose writer
// was killed is whole but for a torn last line, which the appender cuts off.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tailor::predict {

struct PromptLengths {
  std::string id;
  uint32_t prompt_tokens = 0;
  std::vector<uint32_t> lengths;  ///< tokens, end token included
  std::vector<bool> censored;     ///< cut at that length
};

struct LengthFile {
  std::string model, model_fingerprint, arithmetic;
  double temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  uint32_t max_tokens = 0;  ///< the limit the answers ran under; 0 = unknown
  uint64_t seed = 0;
  uint32_t samples = 0;  ///< per prompt
  std::vector<PromptLengths> prompts;
};

/// Errors: NotFound, InvalidArgument (file, line, what was expected and found). A torn last line
/// (no line feed) is left out.
Result<LengthFile> read_length_file(const std::string& path);

/// A prompts file: JSON lines {"id":"dolly/3514","text":".."}, plain or gzip.
struct PromptText {
  std::string id, text;
};
Result<std::vector<PromptText>> read_prompts_file(const std::string& path);

/// Appends to a length file, after making sure that what is there belongs to the same collection.
class LengthWriter {
 public:
  /// Creates the file, or reads what a killed run left: `done()` lists the prompts that are there.
  /// Errors: InvalidArgument (another model, sampling or number of samples: says which),
  /// Unavailable (cannot be written).
  static Result<LengthWriter> open(const std::string& path, const LengthFile& header);
  LengthWriter(LengthWriter&&) noexcept;
  LengthWriter& operator=(LengthWriter&&) noexcept;
  ~LengthWriter();

  const std::vector<PromptLengths>& done() const { return done_; }
  /// One line, on the disk when this returns. Errors: Unavailable (disk full: nothing half is
  /// left).
  Result<void> append(const PromptLengths& prompt);

 private:
  LengthWriter(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
  std::vector<PromptLengths> done_;
};

/// A stable hash of a prompt's id: FNV-1a, finished by splitmix64.
uint64_t id_hash(std::string_view id);

/// Which part of the data a prompt belongs to, decided before anything is fitted: 60 % train, 20 %
/// validation, 20 % test by the hash of its id.
enum class Split : uint8_t { kTrain, kValidation, kTest };
Split split_of(std::string_view id);

}  // namespace tailor::predict
