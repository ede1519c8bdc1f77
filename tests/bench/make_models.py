"""Writes the benchmark models: python make_models.py FOLDER

FOLDER/bench-2m: about 2 M parameters (3 layers, hidden 160), float32.
FOLDER/bench-60m: about 60 M parameters (12 layers, hidden 512), float32.
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


def case(name, layers, hidden, heads, inner):
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
    }
    return {"name": name, "dtype": "F32", "shards": 1, "seed": 1, "config": config,
            "silent_rows": len(SPECIALS) + 256}


def main():
    for one in (case("bench-2m", 3, 160, 5, 704), case("bench-60m", 12, 512, 8, 2432)):
        folder = Path(sys.argv[1]) / one["name"]
        stamp, made_from = folder / "case.json", json.dumps(one)
        if stamp.exists() and stamp.read_text() == made_from:
            continue
        fixtures.write(folder, one, tokenizer_text())
        stamp.write_text(made_from)


if __name__ == "__main__":
    main()
