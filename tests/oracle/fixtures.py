"""Small random models, defined byte for byte as in tests/src/fixtures.rs.

A case is a dict: name, dtype ("F32" | "F16" | "BF16"), shards, seed and config (the model's
config.json). Its weights follow from the case alone: tensor `name` is filled from a splitmix64
stream keyed by the seed and the name, so that neither the order of tensors nor the number of shards
changes a value.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


def stream_key(seed, name):
    """FNV-1a (64 bits) over the seed's little-endian bytes, then the name's bytes."""
    key = 0xCBF29CE484222325
    for byte in seed.to_bytes(8, "little") + name.encode():
        key = ((key ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return np.uint64(key)


def splitmix64(key, count):
    """The first `count` outputs of splitmix64 whose state starts at `key`."""
    with np.errstate(over="ignore"):
        z = key + np.arange(1, count + 1, dtype=np.uint64) * GAMMA
        z = (z ^ (z >> np.uint64(30))) * MIX_1
        z = (z ^ (z >> np.uint64(27))) * MIX_2
        return z ^ (z >> np.uint64(31))


def uniform(key, count):
    """float32 in [-1, 1), from the top 24 bits of each output: exact in every language."""
    high = (splitmix64(key, count) >> np.uint64(40)).astype(np.float32)
    return high * np.float32(2.0**-23) - np.float32(1.0)


def half_range(fan_in, gain):
    """Half the range of a uniform distribution whose deviation is gain / sqrt(fan_in)."""
    return np.float32(math.sqrt(3.0 / fan_in) * gain)


def cast(values, dtype):
    """float32 to the stored dtype; bf16 by truncation."""
    if dtype == "F32":
        return values.astype("<f4")
    if dtype == "F16":
        return values.astype("<f2")
    return (values.view(np.uint32) >> np.uint32(16)).astype("<u2")


class Builder:
    """Collects the tensors of a case: name -> (safetensors dtype, shape, array)."""

    def __init__(self, case):
        self.case = case
        self.dtype = case["dtype"]
        self.quantization = case["config"].get("quantization")
        self.tensors = {}

    def vector(self, name, size, centre):
        """A norm's weight (centre 1) or a bias (centre 0): centre + uniform / 8."""
        values = uniform(stream_key(self.case["seed"], name), size)
        values = values * np.float32(0.125) + np.float32(centre)
        self.tensors[name] = (self.dtype, [size], cast(values, self.dtype))

    def quantization_of(self, path, cols):
        """(bits, group) of a matrix, or None: the rules by which mlx-lm reads config.json."""
        if self.quantization is None:
            return None
        own = self.quantization.get(path, self.quantization)
        if own is False or cols % own["group_size"] != 0:
            return None
        return own["bits"], own["group_size"]

    def matrix(self, path, rows, cols, gain, silent_rows=0):
        """`path`.weight [rows, cols], or its packed weight, scales and biases.

        The first `silent_rows` rows are zero: tokens that are never the likeliest.
        """
        spread = half_range(cols, gain)
        key = stream_key(self.case["seed"], f"{path}.weight")
        quantized = self.quantization_of(path, cols)
        if quantized is None:
            values = uniform(key, rows * cols).reshape(rows, cols) * spread
            values[:silent_rows] = 0.0
            self.tensors[f"{path}.weight"] = (self.dtype, [rows, cols], cast(values, self.dtype))
            return
        bits, group = quantized
        words, groups = cols * bits // 32, cols // group
        packed = (splitmix64(key, rows * words) >> np.uint64(32)).astype("<u4")
        levels = np.float32((1 << bits) - 1)
        jitter = uniform(stream_key(self.case["seed"], f"{path}.scales"), rows * groups)
        scales = (np.float32(2.0) * spread / levels) * (np.float32(1.0) + np.float32(0.25) * jitter)
        biases = scales * (levels * np.float32(-0.5))
        shape = [rows, groups]
        self.tensors[f"{path}.weight"] = ("U32", [rows, words], packed.reshape(rows, words))
        self.tensors[f"{path}.scales"] = (self.dtype, shape, cast(scales, self.dtype))
        self.tensors[f"{path}.biases"] = (self.dtype, shape, cast(biases, self.dtype))

    def linear(self, path, rows, cols, gain, bias):
        self.matrix(path, rows, cols, gain)
        if bias:
            self.vector(f"{path}.bias", rows, 0.0)


def tensors(case):
    """All tensors of a case."""
    config, out = case["config"], Builder(case)
    family, hidden = config["model_type"], config["hidden_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim", hidden // heads)
    inner, vocab = config["intermediate_size"], config["vocab_size"]
    qkv_bias = family == "qwen2" or config.get("attention_bias", False)
    o_bias = family != "qwen2" and config.get("attention_bias", False)
    mlp_bias = config.get("mlp_bias", False)
    tied = config["tie_word_embeddings"]

    # Embedding rows of unit deviation: `gain` is undone by sqrt(hidden).
    out.matrix("model.embed_tokens", vocab, hidden, math.sqrt(hidden))
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        out.vector(f"{at}.input_layernorm.weight", hidden, 1.0)
        out.linear(f"{at}.self_attn.q_proj", heads * head_dim, hidden, 2.0, qkv_bias)
        out.linear(f"{at}.self_attn.k_proj", kv_heads * head_dim, hidden, 2.0, qkv_bias)
        out.linear(f"{at}.self_attn.v_proj", kv_heads * head_dim, hidden, 2.0, qkv_bias)
        out.linear(f"{at}.self_attn.o_proj", hidden, heads * head_dim, 2.0, o_bias)
        if family == "qwen3":
            out.vector(f"{at}.self_attn.q_norm.weight", head_dim, 1.0)
            out.vector(f"{at}.self_attn.k_norm.weight", head_dim, 1.0)
        out.vector(f"{at}.post_attention_layernorm.weight", hidden, 1.0)
        out.linear(f"{at}.mlp.gate_proj", inner, hidden, 2.0, mlp_bias)
        out.linear(f"{at}.mlp.up_proj", inner, hidden, 2.0, mlp_bias)
        out.linear(f"{at}.mlp.down_proj", hidden, inner, 2.0, mlp_bias)
    out.vector("model.norm.weight", hidden, 1.0)
    if not tied:
        out.matrix("lm_head", vocab, hidden, 3.0, case.get("silent_rows", 0))
    return out.tensors


def hashes(all_tensors):
    """SHA-256 of each tensor's bytes."""
    return {name: hashlib.sha256(a.tobytes()).hexdigest() for name, (_, _, a) in all_tensors.items()}


def save(path, part):
    """One safetensors file: header length, JSON header, tensors in order."""
    header, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, (dtype, shape, array) in part.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, array in part.values():
            file.write(array.tobytes())


def write_weights(folder, case):
    """The weight files; tensor i goes to shard i modulo the number of shards."""
    everything = tensors(case)
    shards = case["shards"]
    if shards == 1:
        save(folder / "model.safetensors", everything)
        return everything
    weight_map = {}
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for i, name in enumerate(names):
        part = dict(list(everything.items())[i::shards])
        save(folder / name, part)
        weight_map |= {tensor: name for tensor in part}
    index = {"metadata": {"total_size": sum(a.nbytes for _, _, a in everything.values())},
             "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return everything


def write(folder, case, tokenizer=None):
    """The whole model folder, with the small tokenizer unless another's text is given."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case["config"]))
    shared = HERE.parent / "fixtures"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text((shared / name).read_text())
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer)
    return write_weights(folder, case)
