#!/usr/bin/env python3
"""Makes what Tailor's sentence encoders are compared with, from Hugging Face transformers in fp32.

    make_encoder_fixtures.py small      small random-weight models and their expected values
    make_encoder_fixtures.py minilm     expected values of all-MiniLM-L6-v2 (launch/setup puts it into the cache)
    make_encoder_fixtures.py --check    makes all values anew and compares with the committed ones (exit 1 on a
                                        difference, 77 where the reference is not installed)

Needs torch, transformers, tokenizers, safetensors: development only, the product never runs this.

A fixture is one JSON object a line: text, token_ids (special tokens included, truncated), features (CLS, mean and
maximum over the tokens of the last layer), for the small models' short prompts also hidden [tokens][hidden_size].
Written with 7 digits; the test's tolerance is 1e-4.
"""
import argparse
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures/encoder"
SKIPPED = 77
TOLERANCE = 2e-5
MAX_TOKENS = 512
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]

PROMPTS = [
    "",
    "What is the capital of France?",
    "Write a story of 500 words about a lighthouse keeper who finds a letter.",
    "List five ways to save energy at home:\n\n1. Turn off lights\n2. ",
    "def mean(values):\n    return sum(values) / len(values)\n\nExplain this code.",
    "Напиши короткое стихотворение о море.",
    "请用一句话解释什么是人工智能。",
    "Fix the accents: café, naïve, Ünïcödé — and the emoji 🙂🚀",
    "Is [SEP] a special token, or is [MASK]?",
    "Summarize the following text. " + "The committee met on Monday and agreed on nothing at all. " * 20,
    "Repeat after me: " + "one two three four five six seven " * 120,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b",
]

# deberta_small has the very options of microsoft/deberta-v3-base, position buckets included; deberta_other_small turns
# each of them the other way, and its file carries the prefix "deberta." as that model's checkpoints do.
SMALL = {
    "bert_small": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                       max_position_embeddings=96, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12),
    "deberta_small": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                          max_position_embeddings=512, type_vocab_size=0, hidden_act="gelu", layer_norm_eps=1e-7,
                          relative_attention=True, position_buckets=256, max_relative_positions=-1,
                          norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c|c2p",
                          position_biased_input=False),
    "deberta_other_small": dict(hidden_size=32, embedding_size=24, intermediate_size=48, num_hidden_layers=2,
                                num_attention_heads=2, max_position_embeddings=160, type_vocab_size=2,
                                hidden_act="gelu_new", layer_norm_eps=1e-7, relative_attention=True,
                                max_relative_positions=32, share_att_key=False, pos_att_type=["c2p", "p2c"],
                                position_biased_input=True),
}


def cache_folder():
    cache = os.environ.get("TAILOR_CACHE")
    if not cache:
        cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tailor")
    return pathlib.Path(cache)


def small_pieces():
    """Printable ASCII and the words of PROMPTS[1]: enough for known words, pieces and unknown characters."""
    words = ["what", "is", "the", "capital", "of", "france", "write", "story", "words", "about", "one", "two", "three"]
    return [chr(c) for c in range(33, 127)], words


def bert_tokenizer(folder):
    from transformers import BertTokenizer

    letters, words = small_pieces()
    letters = [c for c in letters if not c.isupper()]
    vocabulary = SPECIAL + letters + ["##" + c for c in letters if c.isalnum()] + words + ["##ing", "##s", "##er"]
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def deberta_tokenizer(folder):
    from transformers import DebertaV2Tokenizer

    letters, words = small_pieces()
    order = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    pieces = [(name, 0.0) for name in order] + [("\u2581", -3.0)] + [(c, -6.0 - 0.01 * i) for i, c in enumerate(letters)]
    pieces += [("\u2581" + word, -5.0 - 0.1 * i) for i, word in enumerate(words)] + [("ing", -5.5), ("er", -5.6)]
    tokenizer = DebertaV2Tokenizer(vocab=pieces + [("[MASK]", 0.0)], unk_id=3)
    tokenizer.save_pretrained(folder)
    return len(pieces) + 1


def make_small(name):
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model

    folder = FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    bert = name.startswith("bert")
    vocabulary = bert_tokenizer(folder) if bert else deberta_tokenizer(folder)
    config = (BertConfig if bert else DebertaV2Config)(vocab_size=vocabulary, pad_token_id=0, **SMALL[name])
    model = BertModel(config, add_pooling_layer=False) if bert else DebertaV2Model(config)
    torch.manual_seed(len(name))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "LayerNorm.weight" in key:
                value.normal_(1.0, 0.1)
            else:
                value.normal_(0.0, 0.1 if key.endswith("bias") else 1.0 if "mbeddings" in key else 0.3)
    config.save_pretrained(folder)
    prefix = "deberta." if name == "deberta_other_small" else ""
    save_file({prefix + key: value.contiguous() for key, value in model.state_dict().items()},
              folder / "model.safetensors", metadata={"format": "pt"})
    for extra in ("special_tokens_map.json", "added_tokens.json"):
        (folder / extra).unlink(missing_ok=True)


def values_of(folder, with_hidden):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    limit = min(MAX_TOKENS, model.config.max_position_embeddings)
    for text in PROMPTS:
        ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).last_hidden_state[0]
        features = torch.cat([hidden[0], hidden.mean(0), hidden.max(0).values])
        line = {"text": text, "token_ids": ids, "features": rounded(features)}
        if with_hidden and len(ids) <= 12:
            line["hidden"] = [rounded(row) for row in hidden]
        yield line


def rounded(values):
    return [float(f"{value:.7g}") for value in values.tolist()]


def places(names):
    for name in names:
        if name == "minilm":
            yield name, cache_folder() / "models/minilm", False
        else:
            yield name, FIXTURES / name, True


def check():
    wrong = 0
    for name, folder, with_hidden in places(["minilm", *SMALL]):
        if not folder.exists():
            print(f"{name}: skipped, {folder} is not there")
            continue
        kept = [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for old, new in zip(kept, values_of(folder, with_hidden), strict=True):
            off = max(abs(a - b) for a, b in zip(old["features"], new["features"], strict=True))
            if old["text"] != new["text"] or old["token_ids"] != new["token_ids"] or off > TOLERANCE:
                print(f"{name}: {old['text'][:40]!r} differs by {off:.2e}")
                wrong += 1
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["small", "minilm"])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}")
        return SKIPPED
    if arguments.check:
        return check()
    if not arguments.what:
        parser.error("small, minilm or --check")
    names = list(SMALL) if arguments.what == "small" else ["minilm"]
    for name in names:
        if name in SMALL:
            make_small(name)
    for name, folder, with_hidden in places(names):
        lines = [json.dumps(line, ensure_ascii=False) for line in values_of(folder, with_hidden)]
        (FIXTURES / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(lines)} prompts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
