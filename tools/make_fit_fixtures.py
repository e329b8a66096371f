#!/usr/bin/env python3
"""Makes tests/fixtures/tie/fits.json: laws at points and maximum-likelihood fits, as scipy computes them.
Development only (needs numpy and scipy): the C++ test reads the stored numbers.

  laws  for each family and (mu, sigma, nu) of tie/fit.h: ln f, ln P(X > x), P(X <= x) at several x and quantiles
  fits  samples (some of them censored) and the largest log-likelihood that a general optimizer finds, from many starts
"""
import json
import pathlib

import numpy as np
from scipy import optimize, stats

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/tie/fits.json"
FAMILIES = ["log_t", "log_normal", "gamma", "weibull", "log_logistic", "pareto"]


def law(family, mu, sigma, nu=3.5):
    """(ln f, ln S, F, quantile) as functions of x."""
    if family == "log_t" or family == "log_t_free":  # no scipy law of its own: through ln x
        t = stats.t(nu, mu, sigma)
        return (lambda x: t.logpdf(np.log(x)) - np.log(x), lambda x: t.logsf(np.log(x)), lambda x: t.cdf(np.log(x)),
                lambda p: np.exp(t.ppf(p)))
    made = {
        "log_normal": lambda: stats.lognorm(sigma, scale=np.exp(mu)),
        "gamma": lambda: stats.gamma(1 / sigma**2, scale=np.exp(mu) * sigma**2),
        "weibull": lambda: stats.weibull_min(1 / sigma, scale=np.exp(mu)),
        "log_logistic": lambda: stats.fisk(1 / sigma, scale=np.exp(mu)),
        "pareto": lambda: stats.pareto(1 / sigma, scale=np.exp(mu)),
    }[family]()
    return made.logpdf, made.logsf, made.cdf, made.ppf


def laws():
    rows = []
    for family in FAMILIES:
        for mu, sigma in ((1.0, 2.0), (5.0, 0.5), (7.0, 0.05)):
            for nu in (1.5, 3.5, 30.0) if family == "log_t" else (3.5,):
                log_f, log_s, cdf, quantile = law(family, mu, sigma, nu)
                points = [float(quantile(p)) for p in (0.02, 0.3, 0.8, 0.999)]
                rows.append({"family": family, "mu": mu, "sigma": sigma, "nu": nu, "x": points,
                             "log_density": [float(log_f(x)) for x in points],
                             "log_survival": [float(log_s(x)) for x in points],
                             "cdf": [float(cdf(x)) for x in points]})
    return rows


def best_fit(family, lengths, censored):
    lengths, censored = np.asarray(lengths, float), np.asarray(censored, bool)
    if family == "pareto":  # the closed form; an optimizer only creeps up to the edge
        low = lengths.min()
        sigma = np.log(lengths / low).sum() / (~censored).sum()
        log_f, log_s, _, _ = law(family, np.log(low * (1 - 1e-15)), sigma)
        return float(np.where(censored, log_s(lengths), log_f(lengths)).sum())

    def minus(p):
        nu = np.clip(np.exp(p[2]), 1, 100) if family == "log_t_free" else 3.5
        log_f, log_s, _, _ = law(family, p[0], np.exp(p[1]), nu)
        value = np.where(censored, log_s(lengths), log_f(lengths)).sum()
        return -value if np.isfinite(value) else 1e9

    logs = np.log(lengths)
    starts = [(logs.mean(), logs.std(), 4.0), (logs.mean() + logs.std(), 2 * logs.std(), 4.0),
              (np.median(logs), 0.05 * logs.std(), 1.1), (np.median(logs), logs.std(), 50.0)]
    options = {"xatol": 1e-9, "fatol": 1e-10, "maxiter": 4000, "maxfev": 4000}
    runs = [optimize.minimize(minus, [mu, np.log(sigma), np.log(nu)][:3 if family == "log_t_free" else 2],
                              method="Nelder-Mead", options=options) for mu, sigma, nu in starts]
    return float(-min(run.fun for run in runs))


def fits():
    rng = np.random.default_rng(20)
    samples = [
        np.round(np.exp(5 + 0.4 * rng.standard_t(3.5, 10))), np.round(np.exp(3 + 0.9 * rng.standard_normal(8))),
        np.round(rng.gamma(2.0, 100.0, 30)) + 1, np.round(np.exp(6 + 0.02 * rng.standard_normal(10))),
        np.array([50, 51, 52, 400, 405]), np.array([204, 11, 132, 61, 980]), np.round(np.exp(4 + rng.standard_t(2, 60))),
    ]
    rows = []
    for lengths in samples:
        for limit in (None, float(np.sort(lengths)[int(0.7 * len(lengths))]) - 0.5):
            censored = np.zeros(len(lengths), bool) if limit is None else lengths > limit
            cut = lengths if limit is None else np.minimum(lengths, limit)
            rows.append({"lengths": [float(v) for v in cut], "censored": [bool(v) for v in censored],
                         "log_likelihood": {f: best_fit(f, cut, censored) for f in [*FAMILIES, "log_t_free"]}})
    return rows


def main():
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"laws": laws(), "fits": fits()}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
