// The losses of length heads, in libtorch. Sources of predict/model (and its tests) only. Lengths
// enter as y = ln(tokens); a cut answer enters by the chance of being longer, not as a length.
#pragma once

#include <ATen/ATen.h>

#include "tie/law.h"

namespace tailor::predict {

/// ln f(y) of ln X = mu + sigma T, T Student-t(nu); all [n]. Differentiable.
at::Tensor log_t_log_density(const at::Tensor& y, const at::Tensor& mu, const at::Tensor& sigma,
                             double nu);

/// ln P(ln X > y), all [n]. The value is LawMath's (nu is its own); the gradient is the exact
/// -f/S of the standardized law. Differentiable once.
at::Tensor log_t_log_survival(const at::Tensor& y, const at::Tensor& mu, const at::Tensor& sigma,
                              const tie::LawMath& math);

/// -ln likelihood of each answer, [n]: density, or survival where `cut`.
at::Tensor log_t_loss(const at::Tensor& y, const at::Tensor& cut, const at::Tensor& mu,
                      const at::Tensor& sigma, const tie::LawMath& math);

/// Of a histogram: logits [n, bins], `share` [n, bins] says how much of each bin's mass is what was
/// seen: one bin for a length, all that lies above for a cut answer. -> [n]
at::Tensor histogram_loss(const at::Tensor& logits, const at::Tensor& share);

/// ListMLE (Xia et al. 2008) of one list: the likelihood of the order of `lengths` (the longest
/// first) under Plackett-Luce with `scores`, per item; both [n]. -> scalar
at::Tensor list_mle_loss(const at::Tensor& scores, const at::Tensor& lengths);

}  // namespace tailor::predict
