#!/usr/bin/env python3
"""Makes tests/fixtures/tie/law.json: moments of log-t laws in high precision, for tests/tie/law_test.cc. Development
only (needs mpmath). Takes about a minute.

Each row: mu, sigma, nu, xmax, generated, then P(X > generated), E, VaR, CVaR (alpha 0.9; of the remaining tokens) and
E[1/max(1, min(X, xmax))]. The program integrates the survival function; here the density is integrated instead, so that
the two share nothing but the definition X = exp(mu + sigma T). The corners of the box come first, then seeded points.
"""
import itertools
import json
import pathlib
import random

from mpmath import betainc, exp, findroot, gamma, inf, log, mp, mpf, pi, quad, sqrt

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/tie/law.json"
NUS = [1.5, 2, 2.5, 3.5, 5, 8, 15, 30]
ALPHA = mpf("0.9")
RANDOM_POINTS = 400
LEAST_SURVIVAL = mpf("1e-6")
mp.dps = 25


def tail(nu, z):
    """P(T > z)."""
    half = betainc(nu / 2, mpf(1) / 2, 0, nu / (nu + z * z), regularized=True) / 2
    return half if z >= 0 else 1 - half


def density(nu, z):
    return gamma((nu + 1) / 2) / (sqrt(nu * pi) * gamma(nu / 2)) * (1 + z * z / nu) ** (-(nu + 1) / 2)


def tail_quantile(nu, s):
    """The z with P(T > z) = s <= 1/2, found in ln z."""
    low, high = mpf("1e-9"), mpf(1)
    while tail(nu, high) > s:
        low, high = high, high * 2
    return exp(findroot(lambda u: log(tail(nu, exp(u)) / s), (log(low), log(high)), solver="anderson", tol=1e-24))


def integrate(f, a, b):
    ends = [z for z in (-1000, -100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100) if a < z < b]
    return quad(f, [a, *ends, b])


def row(mu, sigma, nu, xmax, generated):
    m, s, n = mpf(mu), mpf(sigma), mpf(nu)

    def z_of(x):
        return (log(mpf(x)) - m) / s if x > 0 else -inf

    def mean_above(x):  # E[min(X, xmax); X > x]
        if x >= xmax:
            return xmax * tail(n, z_of(xmax))
        return (integrate(lambda z: exp(m + s * z) * density(n, z), z_of(x), z_of(xmax))
                + xmax * tail(n, z_of(xmax)))

    here = tail(n, z_of(generated)) if generated > 0 else mpf(1)
    target = (1 - ALPHA) * here
    expected = mean_above(generated) / here - generated
    if tail(n, z_of(xmax)) >= target:
        var, cvar = mpf(xmax) - generated, mpf(xmax) - generated
    else:
        z = tail_quantile(n, target) if target <= 0.5 else -tail_quantile(n, 1 - target)
        q = exp(m + s * z)
        var, cvar = q - generated, mean_above(q) / target - generated
    inverse = (1 - tail(n, z_of(1)) + tail(n, z_of(xmax)) / xmax)
    if xmax > 1:
        inverse += integrate(lambda z: exp(-m - s * z) * density(n, z), z_of(1), z_of(xmax))
    return [mu, sigma, nu, xmax, generated] + [float(v) for v in (here, expected, var, cvar, inverse)]


def conditional(mu, sigma, nu, xmax, rng):
    """A whole number of tokens below the limit that the law reaches with a chance over LEAST_SURVIVAL."""
    for _ in range(200):
        generated = int(round(float(exp(rng.uniform(0, float(log(mpf(xmax))))))))
        if 0 < generated < xmax and tail(mpf(nu), (log(mpf(generated)) - mu) / sigma) > LEAST_SURVIVAL:
            return generated
    return 0


def main():
    rng = random.Random(20260)
    points = [(5, 0.5, 3.5, 2048, 0), (5, 0.5, 3.5, 2048, 150)]
    for mu, sigma, nu, xmax in itertools.product((0, 9), (0.05, 2), (1.5, 30), (1, 60, 131072)):
        points.append((mu, sigma, nu, xmax, 0))
        if generated := conditional(mu, sigma, nu, xmax, rng):
            points.append((mu, sigma, nu, xmax, generated))
    for i in range(RANDOM_POINTS):
        mu, sigma = round(rng.uniform(0, 9), 3), round(0.05 * 40 ** rng.random(), 4)
        nu, xmax = rng.choice(NUS), int(round(131072 ** rng.random()))
        points.append((mu, sigma, nu, xmax, conditional(mu, sigma, nu, xmax, rng) if i % 2 else 0))
    rows = [json.dumps(row(*point)) for point in points]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text('{"columns": ["mu", "sigma", "nu", "xmax", "generated", "survival", "E", "VaR", "CVaR", "E_inverse"],\n'
                   '"rows": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
