"""Makes tests/goldens/*.json with mlx-lm: python make_goldens.py [case-name-prefix ...]

For each case it builds the model, and looks for prompts whose 64 greedy tokens do not hang on
rounding: among many random prompts it takes those with the widest gap between the likeliest and the
second likeliest token along the whole path, and of these the first for which mlx-lm gives the same
tokens (a) from the weights as stored, (b) with the prompt prefilled in steps of 3 tokens, and (c)
with all weights widened to float32 (quantized ones dequantized). A difference from such a golden is
a bug, not noise. `min_gap` is that gap in standard deviations of the logits.
"""

import json
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import dequantize_model, load_model

import fixtures
from cases import all_cases

GOLDENS = Path(__file__).parent.parent / "goldens"
TOKENS = 64
CANDIDATES = {"F32": 512, "F16": 512, "BF16": 2048}
# Fewer prompts where each is long.
LONG_CANDIDATES = 64
TRIED = 128
SEEDS = range(1, 9)
LENGTHS = [7, 40]
# Dynamic NTK scaling past max_position_embeddings: the prompt is prefilled token by token, since
# what mlx-lm computes there depends on the chunks, and token by token is what the engine promises.
DYNAMIC_LENGTHS = [7, 40, 100]
FIRST_ORDINARY_TOKEN = 8
# Gaps, in deviations of the logits, that rounding cannot close.
MIN_GAP = {"F32": 0.002, "F16": 0.008, "BF16": 0.015}
TOP = 4


def gather_mm_in_float32(gather_mm):
    """MLX's CPU backend has the experts' product in float32 only; others are widened and rounded."""

    def gather(a, b, **more):
        return gather_mm(a.astype(mx.float32), b.astype(mx.float32), **more).astype(a.dtype)

    return gather


def gather_qmm_of_this_release(gather_qmm):
    """mlx-lm passes `global_scale`, always None for affine weights; this MLX does not know it yet."""

    def gather(*args, global_scale=None, **more):
        assert global_scale is None
        return gather_qmm(*args, **more)

    return gather


mx.gather_mm = gather_mm_in_float32(mx.gather_mm)
mx.gather_qmm = gather_qmm_of_this_release(mx.gather_qmm)


def prefill(model, cache, tokens, step):
    """Runs all of [batch, T] but the last `step` columns at most, and returns those."""
    while tokens.shape[1] > step:
        model(tokens[:, :step], cache=cache)
        mx.eval([c.state for c in cache])
        tokens = tokens[:, step:]
    return tokens


def batch_gaps(model, prompts, step):
    """The smallest gap on each prompt's greedy path (a rough figure: float32, batched)."""
    cache, gaps = make_prompt_cache(model), []
    tokens = prefill(model, cache, mx.array(prompts), step)
    for _ in range(TOKENS):
        logits = model(tokens, cache=cache)[:, -1, :]
        best = mx.sort(logits, axis=-1)[:, -2:]
        gaps.append((best[:, 1] - best[:, 0]) / mx.std(logits, axis=-1))
        tokens = mx.argmax(logits, axis=-1, keepdims=True)
        mx.eval(tokens, gaps[-1])
    return np.array(mx.min(mx.stack(gaps), axis=0))


def greedy(model, prompt, step):
    """mlx-lm's own greedy decoding."""
    steps = generate_step(mx.array(prompt), model, max_tokens=TOKENS, prefill_step_size=step)
    return [int(token) for token, _ in steps]


def measure(model, prompt, tokens, min_gap, step):
    """Walks a path: the smallest gap, and natural log probabilities from float32 logits; or None as
    soon as a token is not the likeliest by `min_gap`."""
    cache, gap, chosen, top = make_prompt_cache(model), np.inf, [], []
    at = prefill(model, cache, mx.array([prompt]), step)
    for token in tokens:
        logits = np.array(model(at, cache=cache)[0, -1].astype(mx.float32)).astype(np.float64)
        order = np.argsort(-logits)
        gap = min(gap, (logits[order[0]] - logits[order[1]]) / logits.std())
        if order[0] != token or gap < min_gap:
            return None
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        chosen.append(round(float(logprobs[token]), 5))
        top.append([[int(i), round(float(logprobs[i]), 5)] for i in order[:TOP]])
        at = mx.array([[token]])
    return gap, chosen, top[:TOP]


def widened(folder):
    """The same weights in float32, none of them quantized."""
    model, config = load_model(folder)
    if "quantization" in config:
        model = dequantize_model(model)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def agrees_in_float32(case):
    """Whether condition (c) is asked. MLX's CPU backend sums bf16 quantized products in bf16: a tenth
    of a deviation away from float32, so that no path of 64 tokens would pass."""
    return not (case["dtype"] == "BF16" and "quantization" in case["config"])


def prefill_steps(case, length):
    """The steps in which a prompt is prefilled; each must give the same path."""
    scaling = fixtures.text(case).get("rope_scaling") or {}
    dynamic = scaling.get("rope_type") == "dynamic"
    return [1] if dynamic and length > fixtures.text(case)["max_position_embeddings"] else [2048, 3]


def prompts_of(case, length):
    """Random prompts of ordinary tokens."""
    salt = fixtures.stream_key(case["seed"], f"prompts of {length}")
    count = CANDIDATES[case["dtype"]] if length <= 100 else LONG_CANDIDATES
    draws = fixtures.splitmix64(salt, count * length) >> np.uint64(33)
    span = fixtures.text(case)["vocab_size"] - FIRST_ORDINARY_TOKEN
    ids = (draws % np.uint64(span)).astype(np.int64) + FIRST_ORDINARY_TOKEN
    return ids.reshape(count, length)


def find(case, model, wide, length):
    """A prompt of `length` tokens whose path is stable, with what is known of it."""
    prompts, steps = prompts_of(case, length), prefill_steps(case, length)
    in_float32 = agrees_in_float32(case)
    order = np.argsort(-batch_gaps(wide, prompts.tolist(), steps[0])) if in_float32 else range(TRIED)
    for index in order[:TRIED]:
        prompt = prompts[index].tolist()
        tokens = greedy(wide if in_float32 else model, prompt, steps[0])
        if len(set(tokens)) < TOKENS // 3:
            continue
        measured = measure(model, prompt, tokens, MIN_GAP[case["dtype"]], steps[0])
        if measured is None or any(tokens != greedy(model, prompt, step) for step in steps):
            continue
        gap, chosen, top = measured
        return {"prompt": prompt, "tokens": tokens, "min_gap": round(float(gap), 5),
                "logprobs": chosen, "top_logprobs": top}
    return None


def dump(path, golden):
    """JSON with one line for each long thing, so that a change can be read."""
    lines = [f'  {json.dumps(key)}: {json.dumps(value)}' for key, value in golden.items() if key not in ("paths", "tensors")]
    hashes = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in golden["tensors"].items())
    paths = ",\n".join(
        "    {\n" + ",\n".join(f"      {json.dumps(k)}: {json.dumps(v)}" for k, v in one.items()) + "\n    }"
        for one in golden["paths"]
    )
    lines += ['  "paths": [\n' + paths + "\n  ]", '  "tensors": {\n' + hashes + "\n  }"]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def paths_of(case):
    """The case's two paths and its tensors, or None where a prompt has no stable path."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tensors = fixtures.write(folder, case)
        model, _ = load_model(folder)
        wide = widened(folder)
        paths = []
        usual = DYNAMIC_LENGTHS if "-dynamic" in case["name"] else LENGTHS
        for length in case.get("lengths", usual):
            paths.append(find(case, model, wide, length))
            if paths[-1] is None:
                return None
        return paths, tensors


def make(case, path):
    for seed in SEEDS:
        case = case | {"seed": seed}
        if found := paths_of(case):
            break
    else:
        raise SystemExit(f"{case['name']}: no seed has stable paths")
    paths, tensors = found
    golden = {"case": case, "agrees_in_float32": agrees_in_float32(case), "oracle": f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}",
              "paths": paths, "tensors": fixtures.hashes(tensors)}
    dump(path, golden)
    print(case["name"], "seed", case["seed"], "min gaps", [path["min_gap"] for path in paths], flush=True)


def version(package):
    from importlib.metadata import version as of

    return of(package)


def main():
    wanted = tuple(sys.argv[1:]) or ("",)
    for case in all_cases():
        path = GOLDENS / f"{case['name']}.json"
        if case["name"].startswith(wanted):
            make(case, path)


if __name__ == "__main__":
    main()
