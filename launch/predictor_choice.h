// What `--predictor auto` comes to: the predictor that was trained for a model, where it and its
// encoder are on this machine.
#pragma once

#include <string>

#include "base/result.h"

namespace tailor::launch {

/// A predictor's folder holds this head; its encoder is found by the head's own word.
inline constexpr const char* kPromptHeadFile = "prompt.safetensors";

struct PredictorQuestion {
  std::string asked;            ///< "auto", "none", a folder, or one of the simple predictors
  std::string model;            ///< as --model says it
  bool random_weights = false;  ///< whatever is there is taken: no head was made for them
  std::string program_folder;
};

struct PredictorChoice {
  std::string predictor;  ///< "none", or what tailor-predictor serve takes
  std::string probe;      ///< the folder with a head on the model's hidden states; empty = none
  /// One sentence where heads are there and were made with another model; empty = nothing to say.
  std::string warning;
};

/// "auto" gives data/predictors/NAME (NAME "default", or the fingerprint of another model): its
/// prompt head where that was made with this very model and the encoder and the program are there,
/// its probe likewise. A folder that was asked for by name is used even where its prompt head was
/// made with another model; a probe never is. Cost: opens the model where heads are there. Errors:
/// NotFound (no such folder, no head in it, no program).
Result<PredictorChoice> choose_predictor(const PredictorQuestion& question);

}  // namespace tailor::launch
