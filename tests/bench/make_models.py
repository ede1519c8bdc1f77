"""Writes the benchmark models: python make_models.py FOLDER

FOLDER/bench-2m: about 2 M parameters (3 layers, hidden 160), float32.
FOLDER/bench-60m: about 60 M parameters (12 layers, hidden 512), float32.
FOLDER/bench-wide: as many in 4 layers of hidden 1024 with 4 query heads and one key head of 128. Beside
its weights a context costs what it costs in models that people run: 16 heads in all for 230 MB (in
Qwen3.6-35B-A3B 160 for 1.7 GB), and 12,000 tokens of keys and values take 0.2 of the weights' bytes (in
Llama 3.1 8B of 4 bits 0.35). In the other two they take 5.8 and 2.5 times the
weights' bytes.
Random weights (tests/oracle/fixtures.py). Their tokenizer gives one token for a letter pair and one
for the space before it, so a prompt's length is known; special tokens and single bytes are never
the likeliest, so that no answer ends early and every token has text.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "oracle"))

import fixtures
from make_tokenizer import SPECIALS, finish, new_tokenizer

VOCAB = 2048
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer_text():
    """Specials, bytes, all letter pairs, then letter triples up to VOCAB."""
    from tokenizers import models, pre_tokenizers

    vocab = SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in LETTERS for b in LETTERS]
    merges += [(a + b, c) for a in LETTERS for b in LETTERS for c in LETTERS]
    merges = merges[: VOCAB - len(vocab)]
    vocab += [a + b for a, b in merges]
    return finish(new_tokenizer(models.BPE({text: i for i, text in enumerate(vocab)}, merges)))


def case(name, layers, hidden, heads, inner, **other):
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": VOCAB,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 3,
        "torch_dtype": "float32",
        **other,
    }
    return {"name": name, "dtype": "F32", "shards": 1, "seed": 1, "config": config,
            "silent_rows": len(SPECIALS) + 256}


def main():
    cases = (
        case("bench-2m", 3, 160, 5, 704),
        case("bench-60m", 12, 512, 8, 2432),
        case("bench-wide", 4, 1024, 4, 4096, num_key_value_heads=1, head_dim=128),
    )
    for one in cases:
        folder = Path(sys.argv[1]) / one["name"]
        stamp, made_from = folder / "case.json", json.dumps(one)
        if stamp.exists() and stamp.read_text() == made_from:
            continue
        fixtures.write(folder, one, tokenizer_text())
        stamp.write_text(made_from)


if __name__ == "__main__":
    main()
