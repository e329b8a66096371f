#include "predict/model/trained_predictor.h"
#include "predict/process/source.h"

namespace tailor::predict {

Result<PredictorSource> open_trained(const std::string& folder, int threads) {
  TAILOR_ASSIGN(auto predictor, TrainedPredictor::load(folder, threads));
  const HeadInfo& info = predictor->head().info();
  PredictorSource out;
  out.hello.name = info.model_name + " by " + info.encoder;
  out.hello.encoder = info.encoder;
  out.hello.head = folder;
  out.hello.population = info.population;
  out.predictor = std::move(predictor);
  return out;
}

}  // namespace tailor::predict
