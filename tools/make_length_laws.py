#!/usr/bin/env python3
"""Puts the figures of `tailor fit-report` into docs/length-laws.md.

    tools/make_length_laws.py [OUT/fit-report.json...]

Merges the given reports by model into docs/length-laws.json (a model that is there is replaced) and writes the tables
of docs/length-laws.md again, between its lines `<!-- table NAME -->` and `<!-- end -->`. With no report: only the tables.
"""
import json
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
DATA, PAGE = DOCS / "length-laws.json", DOCS / "length-laws.md"
NAMES = {"log_t": "log-t, nu 3.5", "log_t_free": "log-t, nu fitted", "log_normal": "log-normal", "gamma": "gamma",
         "weibull": "Weibull", "log_logistic": "log-logistic", "pareto": "Pareto"}
OURS = "SmolLM2"  # models with this in their name are ours; all others are CASTILLO's


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def merge(paths):
    files = {f["model"]: f for f in json.loads(DATA.read_text())["files"]} if DATA.exists() else {}
    for path in paths:
        report = json.loads(pathlib.Path(path).read_text())
        if report.get("format") != "tailor-fit-report-1":
            sys.exit(f"make_length_laws: {path}: expected format tailor-fit-report-1, found {report.get('format')}")
        files.update({f["model"]: rounded(f) for f in report["files"]})
    ordered = [files[model] for model in sorted(files, key=lambda m: (OURS in m, m.lower()))]
    lines = ",\n".join(json.dumps(f, separators=(",", ":")) for f in ordered)
    DATA.write_text('{"format":"tailor-fit-report-1","files":[\n' + lines + "\n]}\n")
    return ordered


def family(report, key):
    return next(f for f in report["families"] if f["family"] == key)


def percent(value, digits=1):
    return f"{100 * value:.{digits}f}"


def nats(value):
    return "diverges" if value is None or value < -1000 else f"{value:.2f}"


def pair(report, key, show):
    return " / ".join(show(family(report, name)[key]) for name in ("log_t_free", "log_t", "log_normal"))


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *("| " + " | ".join(r) + " |" for r in rows)]


def ks_table(files):
    head = ["model", "prompts", "n", "cut %", "few distinct %", "KS naive %", "KS corrected %", "corrected, distinct %"]
    rows = []
    for r in files:
        least, most = r["answers_per_prompt"]
        rows.append([r["model"], f"{r['used']:,}", str(most) if least == most else f"{least}-{most}",
                     percent(r["censored"] / r["answers"], 2), percent(r["few_distinct"]),
                     pair(r, "ks_naive", percent), pair(r, "ks_corrected", percent), pair(r, "ks_corrected_spread", percent)])
    return table(head, rows)


def held_out_table(files):
    head = ["model", "held out, mean", "held out, median", "above P90 %", "above P99 %", "tail index: data", "if log-t",
            "if log-normal", "nu"]
    rows = []
    for r in files:
        tail = {t["of"]: t for t in r["tail"]}
        index = [f"{tail[of]['index']:.2f}" if tail[of]["k"] else "-" for of in ("observed", "log_t", "log_normal")]
        if tail["observed"]["k"]:
            index[0] += f" ± {tail['observed']['error']:.2f}"
        rows.append([r["model"], pair(r, "held_out_mean", nats), pair(r, "held_out_median", nats),
                     *(pair({"families": [dict(f, share=f["quantiles"][q]["above"]) for f in r["families"]]}, "share",
                            percent) for q in (1, 3)),
                     *index, f"{r['nu_matched']:.1f}" if r["nu_matched"] else "-"])
    return table(head, rows)


def families_table(files):
    """All families over CASTILLO's prompts; likelihoods are weighted by answers, shares by prompts."""
    files = [r for r in files if OURS not in r["model"]]
    prompts, answers = sum(r["used"] for r in files), sum(r["answers"] for r in files)

    def mean(key, name, weight):
        values = [family(r, key)[name] for r in files]
        if any(v is None for v in values):
            return None
        return sum(v * r[weight] for v, r in zip(values, files)) / sum(r[weight] for r in files)

    def above(key, q):
        return sum(family(r, key)["quantiles"][q]["above"] * r["answers"] for r in files) / answers

    rows = [[NAMES[key], *(percent(mean(key, name, "used")) for name in ("ks_naive", "ks_corrected")),
             nats(mean(key, "log_likelihood", "answers")), nats(mean(key, "held_out_mean", "answers")),
             percent(mean(key, "best_aic", "used")),
             " / ".join(percent(above(key, q), 1 if q < 3 else 2) for q in range(5))] for key in NAMES]
    head = ["family", "KS naive %", "KS corrected %", "log-lik.", "held out, mean", "AIC best %",
            "above P50 / P90 / P95 / P99 / P99.9 %"]
    return [f"{len(files)} models, {prompts:,} prompts, {answers:,} answers.", "", *table(head, rows)]


def main():
    files = merge(sys.argv[1:])
    tables = {"families": families_table, "ks": ks_table, "held-out": held_out_table}
    text = PAGE.read_text()
    for name, make in tables.items():
        mark = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.S)
        if not mark.search(text):
            sys.exit(f"make_length_laws: {PAGE.name} has no place for the table {name}")
        text = mark.sub(lambda m: m.group(1) + "\n".join(make(files)) + "\n" + m.group(2), text)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
