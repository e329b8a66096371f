// How this folder's sources use Boost.Math: doubles only (no promotion to long double), and the
// value at a pole or overflow instead of an exception.
#pragma once

#include <boost/math/distributions/students_t.hpp>
#include <boost/math/policies/policy.hpp>

namespace tailor::tie {

using BoostPolicy = boost::math::policies::policy<
    boost::math::policies::promote_double<false>,
    boost::math::policies::domain_error<boost::math::policies::ignore_error>,
    boost::math::policies::pole_error<boost::math::policies::ignore_error>,
    boost::math::policies::overflow_error<boost::math::policies::ignore_error>,
    boost::math::policies::evaluation_error<boost::math::policies::ignore_error>>;
using StudentT = boost::math::students_t_distribution<double, BoostPolicy>;

}  // namespace tailor::tie
