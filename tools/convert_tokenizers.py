#!/usr/bin/env python3
"""Converts tokenizer files that other projects publish into the two forms Tailor's tests read.

    tools/convert_tokenizers.py OUT --tiktoken NAME=FILE --sentencepiece NAME=FILE --json NAME=FILE[.gz] --gguf NAME=FILE

writes for each NAME
    OUT/NAME.vocabulary.json   what GGUF metadata would carry: see "The vocabulary form" below
    OUT/NAME.tokenizer.json    Hugging Face's form (tiktoken and sentencepiece input only)

The cases of tests/text/ that need vocabularies under Meta's community licences (they stay out of this repository)
look into the folder that the environment variable TAILOR_TOKENIZER_DIR names. With Meta's files at hand:

    tools/convert_tokenizers.py DIR --tiktoken llama-bpe=llama3/tokenizer.model --sentencepiece llama-spm=llama2/tokenizer.model
    TAILOR_TOKENIZER_DIR=DIR ctest -R text_

The committed vocabularies in tests/fixtures/tokenizers/ were made by this script too: see SOURCES.md there.

Needs Python alone; --gguf needs the package gguf.

The vocabulary form: a JSON object with model, pre, bos, eos, unknown, add_bos, add_eos, add_space_prefix,
chat_template, and, kept small because it lies in the repository,
    head            the first tokens as written
    merges          "left right", in order; the tokens after `head` are these joined ("tokens_are_merges"), or
    tokens          the tokens after `head`, where they are not the merges joined
    tail            the last tokens
    types           [[first id, last id, type], ...] of those that are not 1 (normal)
    scores          of the first tokens; every one after them is the one before it less 1
"""

import argparse
import base64
import gzip
import json
import pathlib
import struct

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def byte_to_char():
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {}, 256
    for b in range(256):
        if b in printable:
            table[b] = chr(b)
        else:
            table[b] = chr(extra)
            extra += 1
    return table


def tiktoken_merges(ranks):
    """The two parts each token was joined from: what merging with only the better ranks leaves of it."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best = min(
                range(len(parts) - 1),
                key=lambda i: ranks.get(parts[i] + parts[i + 1], rank) if ranks.get(parts[i] + parts[i + 1], rank) < rank else 1 << 60,
            )
            joined = parts[best] + parts[best + 1]
            if ranks.get(joined, rank) >= rank:
                break
            parts[best : best + 2] = [joined]
        if len(parts) == 2:
            merges.append(tuple(parts))
    return merges


def read_tiktoken(path):
    """Llama 3's tokenizer.model: lines of base64 token and rank, then 256 special tokens."""
    ranks = {}
    for line in path.read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    chars = byte_to_char()
    write = lambda token: "".join(chars[b] for b in token)
    special = [
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
        "<|eot_id|>", "<|python_tag|>",
    ]
    special += [f"<|reserved_special_token_{i}|>" for i in range(2, 2 + 256 - len(special))]
    n = len(ranks)
    vocabulary = {
        "model": "gpt2", "pre": "llama-bpe", "bos": n, "eos": n + 1, "unknown": -1, "add_bos": True, "add_eos": False,
        "add_space_prefix": False, "chat_template": "",
        "head": [], "tokens": [write(t) for t, _ in sorted(ranks.items(), key=lambda item: item[1])], "tail": special,
        "merges": [f"{write(a)} {write(b)}" for a, b in tiktoken_merges(ranks)],
        "types": [[n, n + len(special) - 1, CONTROL]], "scores": [],
    }
    return vocabulary


def protobuf_fields(data):
    """(number, value) of each field of one protobuf message: int, bytes or 4 raw bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
        elif kind == 2:
            size = varint()
            yield key >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise SystemExit("not a sentencepiece model")


def read_sentencepiece(path):
    """A sentencepiece .model file (ModelProto: 1 pieces, 3 normalizer_spec)."""
    tokens, scores, types, dummy_prefix = [], [], [], True
    for number, value in protobuf_fields(path.read_bytes()):
        if number == 1:
            piece = dict(protobuf_fields(value))
            tokens.append(piece[1].decode())
            scores.append(struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0])
            types.append(piece.get(3, NORMAL))
        elif number == 3:
            dummy_prefix = bool(dict(protobuf_fields(value)).get(3, 1))
    find = lambda token: tokens.index(token) if token in tokens else -1
    return {
        "model": "llama", "pre": "default", "bos": find("<s>"), "eos": find("</s>"), "unknown": find("<unk>"),
        "add_bos": True, "add_eos": False, "add_space_prefix": dummy_prefix, "chat_template": "",
        "head": [], "tokens": tokens, "tail": [], "merges": [], "types": runs(types), "scores": scores,
    }


def read_tokenizer_json(path):
    """A byte-level tokenizer.json (GPT-2's)."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    tokenizer = json.loads(data)
    ids = dict(tokenizer["model"]["vocab"])
    types = {}
    for token in tokenizer["added_tokens"]:
        ids[token["content"]] = token["id"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    tokens = [token for token, _ in sorted(ids.items(), key=lambda item: item[1])]
    end = ids.get("<|endoftext|>", -1)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    return {
        "model": "gpt2", "pre": "gpt-2", "bos": end, "eos": end, "unknown": -1, "add_bos": False, "add_eos": False,
        "add_space_prefix": False, "chat_template": "",
        "head": [], "tokens": tokens, "tail": [], "merges": merges,
        "types": runs([types.get(i, NORMAL) for i in range(len(tokens))]), "scores": [],
    }


def read_gguf(path):
    import gguf

    fields = {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items() if k.startswith("tokenizer.")}
    get = lambda key, otherwise: fields.get("tokenizer.ggml." + key, otherwise)
    return {
        "model": get("model", ""), "pre": get("pre", ""), "bos": get("bos_token_id", -1), "eos": get("eos_token_id", -1),
        "unknown": get("unknown_token_id", -1), "add_bos": get("add_bos_token", get("model", "") == "llama"),
        "add_eos": get("add_eos_token", False), "add_space_prefix": get("add_space_prefix", True),
        "chat_template": fields.get("tokenizer.chat_template", ""),
        "head": [], "tokens": get("tokens", []), "tail": [], "merges": get("merges", []),
        "types": runs(get("token_type", [])), "scores": get("scores", []),
    }


def runs(types):
    out = []
    for i, t in enumerate(types):
        if t == NORMAL:
            continue
        if out and out[-1][1] == i - 1 and out[-1][2] == t:
            out[-1][1] = i
        else:
            out.append([i, i, t])
    return out


def shorten(vocabulary):
    """Leaves out what follows from the rest (tokens that are the merges joined, scores that count down)."""
    short = dict(vocabulary)
    joined = [m.replace(" ", "", 1) for m in vocabulary["merges"]]
    tokens = vocabulary["head"] + vocabulary["tokens"] + vocabulary["tail"]
    if joined:
        starts = [i for i in range(len(tokens) - len(joined) + 1) if tokens[i] == joined[0]]
        for start in starts:
            if tokens[start : start + len(joined)] == joined:
                short |= {"head": tokens[:start], "tail": tokens[start + len(joined) :], "tokens_are_merges": True}
                del short["tokens"]
    scores = short.get("scores", [])
    counted = len(scores)
    while counted > 1 and scores[counted - 1] == scores[counted - 2] - 1:
        counted -= 1
    short["scores"] = scores[:counted]
    return short


def tokenizer_json(v):
    """Hugging Face's form of a vocabulary: Llama 3 (byte-level) or Llama 2 and Mistral (sentencepiece)."""
    tokens = v["head"] + v["tokens"] + v["tail"]
    types = [NORMAL] * len(tokens)
    for first, last, kind in v["types"]:
        types[first : last + 1] = [kind] * (last - first + 1)
    added = [
        {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": types[i] in (CONTROL, UNKNOWN)}
        for i in range(len(tokens)) if types[i] in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    vocabulary = {t: i for i, t in enumerate(tokens)}
    bos = {"SpecialToken": {"id": tokens[v["bos"]], "type_id": 0}}
    post = {
        "type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {tokens[v["bos"]]: {"id": tokens[v["bos"]], "ids": [v["bos"]], "tokens": [tokens[v["bos"]]]}},
    }
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    out = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
           "pre_tokenizer": None, "post_processor": post, "decoder": None, "model": model}
    if v["model"] == "gpt2":
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": LLAMA3_SPLIT}, "behavior": "Isolated", "invert": False}
        out["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
        out["decoder"] = level
        special = {tokens[i] for i in range(len(tokens)) if types[i] == CONTROL}
        model |= {"ignore_merges": True, "merges": v["merges"],
                  "vocab": {t: i for t, i in vocabulary.items() if t not in special}}
    else:
        merges = []
        for i, token in enumerate(tokens):
            if types[i] in (NORMAL, USER_DEFINED, UNUSED):
                cuts = [(token[:k], token[k:]) for k in range(1, len(token))]
                cuts = [(a, b) for a, b in cuts if a in vocabulary and b in vocabulary]
                cuts.sort(key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]]))
                merges += [(v["scores"][i], cut) for cut in cuts]
        merges.sort(key=lambda item: -item[0])
        model |= {"unk_token": tokens[v["unknown"]], "fuse_unk": True, "byte_fallback": True, "vocab": vocabulary,
                  "merges": [list(cut) for _, cut in merges]}
        replace = lambda a, b: {"type": "Replace", "pattern": {"String": a}, "content": b}
        out["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581")]}
        out["decoder"] = {"type": "Sequence", "decoders": [
            replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    readers = {"tiktoken": read_tiktoken, "sentencepiece": read_sentencepiece, "json": read_tokenizer_json, "gguf": read_gguf}
    for kind in readers:
        parser.add_argument("--" + kind, action="append", default=[], metavar="NAME=FILE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def write(name, value):
        path = args.out / name
        path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"{path}: {path.stat().st_size} bytes")

    for kind, read in readers.items():
        for item in getattr(args, kind):
            name, _, path = item.partition("=")
            vocabulary = read(pathlib.Path(path))
            write(f"{name}.vocabulary.json", shorten(vocabulary))
            if kind in ("tiktoken", "sentencepiece"):
                write(f"{name}.tokenizer.json", tokenizer_json(vocabulary))


if __name__ == "__main__":
    main()
