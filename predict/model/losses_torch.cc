#include "predict/model/losses_torch.h"

#include <cmath>

namespace tailor::predict {

at::Tensor log_t_log_density(const at::Tensor& y, const at::Tensor& mu, const at::Tensor& sigma,
                             double nu) {
  const double norm = std::lgamma((nu + 1) / 2) - std::lgamma(nu / 2) - 0.5 * std::log(nu * M_PI);
  const at::Tensor z = (y - mu) / sigma;
  return norm - at::log(sigma) - (nu + 1) / 2 * at::log1p(z * z / nu);
}

at::Tensor log_t_log_survival(const at::Tensor& y, const at::Tensor& mu, const at::Tensor& sigma,
                              const tie::LawMath& math) {
  const at::Tensor z = (y - mu) / sigma;
  const at::Tensor at_z = z.detach().to(at::kDouble).contiguous();
  at::Tensor value = at::empty_like(at_z), slope = at::empty_like(at_z);
  const LengthLaw standard = tie::log_t(0, 1, math.nu());
  for (int64_t i = 0; i < at_z.numel(); ++i) {
    const double place = std::min(300.0, std::max(-300.0, at_z.const_data_ptr<double>()[i]));
    const double x = std::exp(place);
    const double survival = std::max(1e-300, math.survival(standard, x));
    value.mutable_data_ptr<double>()[i] = std::log(survival);
    // The density of ln X is x f(x).
    slope.mutable_data_ptr<double>()[i] =
        -std::exp(math.log_density(standard, x) + place - std::log(survival));
  }
  value = value.to(z.scalar_type()), slope = slope.to(z.scalar_type());
  return value + slope * (z - z.detach());  // the value, with the slope as its gradient
}

at::Tensor log_t_loss(const at::Tensor& y, const at::Tensor& cut, const at::Tensor& mu,
                      const at::Tensor& sigma, const tie::LawMath& math) {
  const at::Tensor whole = log_t_log_density(y, mu, sigma, math.nu());
  if (!cut.any().item<bool>()) return -whole;
  const at::Tensor where = at::nonzero(cut).squeeze(1);
  const at::Tensor beyond = log_t_log_survival(y.index_select(0, where), mu.index_select(0, where),
                                               sigma.index_select(0, where), math);
  return -whole.index_copy(0, where, beyond);
}

at::Tensor histogram_loss(const at::Tensor& logits, const at::Tensor& share) {
  const at::Tensor seen = at::logsumexp(logits + at::log(share + 1e-30), -1);
  return at::logsumexp(logits, -1) - seen;
}

at::Tensor list_mle_loss(const at::Tensor& scores, const at::Tensor& lengths) {
  const at::Tensor order = at::argsort(lengths, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor sorted = scores.index_select(0, order);
  const at::Tensor rest = at::flip(at::logcumsumexp(at::flip(sorted, {0}), 0), {0});
  return at::mean(rest - sorted);
}

}  // namespace tailor::predict
