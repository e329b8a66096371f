#include "predict/process/source.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "base/numbers.h"

namespace tailor::predict {
namespace {

constexpr const char* kConstant = "constant:";

Result<PredictorSource> constant(const std::string& source) {
  const std::string_view numbers = std::string_view(source).substr(std::strlen(kConstant));
  const size_t comma = std::min(numbers.find(','), numbers.size());
  const auto mu = parse_number<double>(numbers.substr(0, comma));
  const auto sigma = parse_number<double>(numbers.substr(std::min(comma + 1, numbers.size())));
  LengthLaw law;
  if (mu && sigma) law = tie::log_t(*mu, *sigma);
  if (law.kind == LengthLaw::Kind::kNone || !well_formed(law))
    return fail(ErrorCode::kInvalidArgument,
                "a constant predictor is constant:MU,SIGMA with sigma above 0, found " + source);
  PredictorSource out{std::make_unique<ConstantPredictor>(law), {}};
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
    PredictorSource out{std::make_unique<PromptLengthPredictor>(), {}};
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

}  // namespace tailor::predict
