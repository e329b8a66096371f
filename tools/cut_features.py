#!/usr/bin/env python3
"""A small feature file (predict/feature_file.h) from large ones: some layers, one state of each prompt, a few of its first answer.

    tools/cut_features.py --layers 18,22 --generated 32,128,384 --ids LENGTHS.jsonl --out SMALL IN...

What `tailor eval-predictor --model default` judges the probes by must fit into a repository. Keeps the prompts of LENGTHS.
"""
import argparse
import json
import struct

MASK = (1 << 64) - 1


def id_hash(text):  # predict/length_file.h
    value = 14695981039346656037
    for byte in text.encode():
        value = ((value ^ byte) * 1099511628211) & MASK
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", required=True)
    parser.add_argument("--generated", default="32,128,384")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    layers = [int(x) for x in args.layers.split(",")]
    places = {0} | {int(x) for x in args.generated.split(",")}
    with open(args.ids, encoding="utf-8") as lines:
        wanted = {id_hash(line["id"]) for line in map(json.loads, list(lines)[1:])}
    kept, header = {}, None
    for path in args.files:
        with open(path, "rb") as file:
            if file.read(8) != b"TLFEAT1\n":
                raise SystemExit(f"{path} is no feature file")
            header = json.loads(file.read(struct.unpack("<I", file.read(4))[0]))
            hidden, there = header["hidden"], header["layers"]
            size = 16 + 2 * hidden * len(there)
            while len(record := file.read(size)) == size:
                key = struct.unpack("<QII", record[:16])
                if key[0] not in wanted or key[1] >= args.samples or key[2] not in places:
                    continue
                kept[key] = b"".join(record[16 + 2 * hidden * there.index(l):][:2 * hidden] for l in layers)
    text = json.dumps({"model_fingerprint": header["model_fingerprint"], "hidden": header["hidden"], "layers": layers}).encode()
    with open(args.out, "wb") as out:
        out.write(b"TLFEAT1\n" + struct.pack("<I", len(text)) + text)
        for key in sorted(kept):
            out.write(struct.pack("<QII", *key) + kept[key])
    print(f"{len(kept)} states in {args.out}")


if __name__ == "__main__":
    main()
