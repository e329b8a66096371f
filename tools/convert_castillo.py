#!/usr/bin/env python3
"""Turns CASTILLO's lengths into length files ("tailor-lengths-1"), one for each of its 13 models.

    tools/convert_castillo.py castillo/lengths.csv.gz OUT     writes OUT/<model>.jsonl.gz
    tools/convert_castillo.py --preprocessed castillo_code/data/preprocessed OUT    the same from the authors' own files

CASTILLO (D. F. Perez-Ramirez and others, arXiv 2505.16881) has ten answers of each of 13 models to prompts of seven
sets: github.com/DanielFPerez/castillo_code, data/preprocessed/{train,validate,test}/preproc_*.json, published by its
authors as CC BY 4.0. The first form reads a table made from those files: columns prompt_id, model, dataset, category,
split, input_size, out_0 .. out_9, top_k, top_p, temp.

Lengths count the end token. 15001 is the cap of its runs: such an answer was cut (finish "length"). The id of a prompt
is dataset/prompt_id. Of repeated (model, prompt) pairs the first is kept. Only the standard library is needed.
"""
import argparse
import csv
import gzip
import json
import pathlib
import sys

CAP = 15001
SAMPLES = 10


def rows_of_table(path):
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else open(path, newline="") as file:
        reader = csv.DictReader(file)
        wanted = ["prompt_id", "model", "dataset", "input_size", *(f"out_{i}" for i in range(SAMPLES))]
        missing = [name for name in wanted if name not in (reader.fieldnames or [])]
        if missing:
            sys.exit(f"convert_castillo: {path}: expected the columns {', '.join(wanted)}; missing {', '.join(missing)}")
        for row in reader:
            row["lengths"] = [int(float(row[f"out_{i}"])) for i in range(SAMPLES)]
            yield row


def rows_of_folder(path):
    files = sorted(path.glob("*/preproc_*.json"))
    if not files:
        sys.exit(f"convert_castillo: {path}: expected train/, validate/ and test/ with preproc_*.json, found none")
    for file in files:
        for row in json.loads(file.read_text()):
            row["lengths"] = [int(length) for length in row["output_sizes"]]
            yield row


def write_model(out, model, settings, prompts):
    name = model.replace("/", "--")
    header = {
        "format": "tailor-lengths-1", "model": name.split("--")[-1], "model_fingerprint": "", "arithmetic": "",
        "sampling": {"temperature": settings[0], "top_k": settings[1], "top_p": settings[2], "max_tokens": CAP, "seed": 0},
        "samples": SAMPLES, "source": "CASTILLO, arXiv 2505.16881, CC BY 4.0",
    }
    with open(out / f"{name}.jsonl.gz", "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        for value in (header, *prompts):
            file.write((json.dumps(value, separators=(",", ":")) + "\n").encode())


def number(text, kind, fallback):
    return kind(float(text)) if text not in (None, "", "None") else fallback


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preprocessed", action="store_true", help="SOURCE is the authors' folder data/preprocessed")
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    if not options.source.exists():
        sys.exit(f"convert_castillo: {options.source}: no such file or folder")
    models, settings, seen = {}, {}, set()
    for row in rows_of_folder(options.source) if options.preprocessed else rows_of_table(options.source):
        key = (row["model"], row["dataset"], row["prompt_id"])
        if key in seen:
            continue
        seen.add(key)
        settings.setdefault(row["model"], (number(row.get("temp"), float, 1.0), number(row.get("top_k"), int, 0),
                                           number(row.get("top_p"), float, 1.0)))
        models.setdefault(row["model"], []).append({
            "id": f"{row['dataset']}/{row['prompt_id']}", "prompt_tokens": int(row["input_size"]), "lengths": row["lengths"],
            "finish": ["length" if length >= CAP else "stop" for length in row["lengths"]]})
    options.out.mkdir(parents=True, exist_ok=True)
    for model, prompts in sorted(models.items()):
        write_model(options.out, model, settings[model], prompts)
        print(f"{model}: {len(prompts)} prompts")


if __name__ == "__main__":
    main()
