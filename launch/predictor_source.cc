#include "launch/predictor_source.h"

#include <cstdio>
#include <filesystem>

namespace tailor::launch {
namespace {

constexpr const char* kConstant = "constant:";

Result<PredictorSource> constant(const std::string& source) {
  float mu = 0, sigma = 0;
  char rest = 0;
  const std::string numbers = source.substr(std::string(kConstant).size());
  LengthLaw law;
  if (std::sscanf(numbers.c_str(), "%f,%f%c", &mu, &sigma, &rest) == 2)
    law = tie::log_t(static_cast<double>(mu), static_cast<double>(sigma));
  if (law.kind == LengthLaw::Kind::kNone || !well_formed(law))
    return fail(ErrorCode::kInvalidArgument,
                "a constant predictor is constant:MU,SIGMA with sigma above 0, found " + source);
  PredictorSource out{std::make_unique<tie::ConstantPredictor>(law), {}};
  out.hello.name = "constant predictor";
  out.hello.encoder = "none";
  out.hello.head = source;
  out.hello.population = law;
  return out;
}

}  // namespace

Result<PredictorSource> open_predictor(const std::string& source, int threads) {
  if (source.rfind(kConstant, 0) == 0) return constant(source);
  if (source == "prompt-length") {
    PredictorSource out{std::make_unique<tie::PromptLengthPredictor>(), {}};
    out.hello.name = "prompt-length predictor";
    out.hello.encoder = "none";
    out.hello.head = source;
    out.hello.population = tie::default_population();
    return out;
  }
  if (!std::filesystem::is_directory(source))
    return fail(ErrorCode::kNotFound, "no predictor: " + source +
                                          " is neither a folder, constant:MU,SIGMA nor "
                                          "prompt-length");
  return open_trained(source, threads);
}

}  // namespace tailor::launch
