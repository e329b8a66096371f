#include "tie/kolmogorov.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace tailor::tie {
namespace {

using Matrix = std::vector<double>;  // [size, size]

Matrix multiplied(const Matrix& a, const Matrix& b, int size) {
  Matrix c(a.size());
  for (int i = 0; i < size; ++i) {
    for (int k = 0; k < size; ++k) {
      const double value = a[i * size + k];
      for (int j = 0; j < size; ++j) c[i * size + j] += value * b[k * size + j];
    }
  }
  return c;
}

// a^power as c * 10^exponent, so that nothing overflows.
Matrix power_of(const Matrix& a, int size, int power, int& exponent) {
  exponent = 0;
  if (power == 1) return a;
  int half = 0;
  Matrix root = power_of(a, size, power / 2, half);
  Matrix c = multiplied(root, root, size);
  exponent = 2 * half;
  if (power % 2) c = multiplied(a, c, size);
  if (c[(size / 2) * size + size / 2] > 1e140) {
    for (double& value : c) value *= 1e-140;
    exponent += 140;
  }
  return c;
}

}  // namespace

double kolmogorov_distance(const FittedLaw& law, std::span<const LengthSample> samples) {
  double limit = std::numeric_limits<double>::infinity();
  for (const LengthSample& s : samples) {
    if (s.censored) limit = std::min(limit, s.tokens);
  }
  std::vector<double> lengths;
  lengths.reserve(samples.size());
  for (const LengthSample& s : samples) {
    if (!s.censored && s.tokens <= limit) lengths.push_back(s.tokens);
  }
  std::sort(lengths.begin(), lengths.end());
  const double n = static_cast<double>(samples.size());
  double distance = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const double f = law.cdf(lengths[i]);
    distance = std::max({distance, (i + 1) / n - f, f - i / n});
  }
  if (std::isfinite(limit)) distance = std::max(distance, law.cdf(limit) - lengths.size() / n);
  return distance;
}

double kolmogorov_p_value(double distance, int n) {
  if (n < 1 || distance <= 0.5 / n) return 1;
  if (distance >= 1) return 0;
  const double s = distance * distance * n;
  if (s > 18) return 2 * std::exp(-(2.000071 + 0.331 / std::sqrt(n) + 1.409 / n) * s);
  const int k = static_cast<int>(n * distance) + 1, size = 2 * k - 1;
  const double h = k - n * distance;
  Matrix a(static_cast<size_t>(size) * size);
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) a[i * size + j] = i - j + 1 < 0 ? 0 : 1;
  }
  for (int i = 0; i < size; ++i) {
    a[i * size] -= std::pow(h, i + 1);
    a[(size - 1) * size + i] -= std::pow(h, size - i);
  }
  a[(size - 1) * size] += 2 * h - 1 > 0 ? std::pow(2 * h - 1, size) : 0;
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) {
      for (int g = 1; g <= i - j + 1; ++g) a[i * size + j] /= g;
    }
  }
  int exponent = 0;
  const Matrix q = power_of(a, size, n, exponent);
  double below = q[(k - 1) * size + k - 1];
  for (int i = 1; i <= n; ++i) {
    below *= static_cast<double>(i) / n;
    if (below < 1e-140) {
      below *= 1e140;
      exponent -= 140;
    }
  }
  return std::clamp(1 - below * std::pow(10.0, exponent), 0.0, 1.0);
}

}  // namespace tailor::tie
