#include "base/model_stamp.h"

namespace tailor {

bool is_sampled_stamp(std::string_view stamp) {
  return stamp.size() == 32 && stamp.find_first_not_of("0123456789abcdef") == stamp.npos;
}

bool stamp_fits(std::string_view found, std::string_view wanted) {
  return found.empty() || wanted.empty() || found == wanted;
}

std::string stamp_misfit(const std::string& file, std::string_view found, std::string_view wanted,
                         const std::string& model) {
  if (is_sampled_stamp(found) && !is_sampled_stamp(wanted)) {
    return file + " names its model by an older fingerprint (" + std::string(found) +
           "), which came from samples of the weights: `tailor restamp --model " + model + " " +
           file + "` renews it where the model is the same";
  }
  return file + " was made with the model " + std::string(found) + ", this one is " +
         std::string(wanted);
}

}  // namespace tailor
