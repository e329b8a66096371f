// A build without libtorch reads no encoders.
#include "predict/process/source.h"

namespace tailor::predict {

Result<PredictorSource> open_trained(const std::string& folder, int) {
  return fail(ErrorCode::kUnavailable,
              folder + " needs a sentence encoder: this build is without libtorch");
}

}  // namespace tailor::predict
