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

    def plain(self, name, shape, fan_in, gain, silent_rows=0):
        """`name` of any shape, never packed. A value's deviation is gain / sqrt(fan_in)."""
        key = stream_key(self.case["seed"], name)
        values = uniform(key, math.prod(shape)).reshape(shape) * half_range(fan_in, gain)
        values[:silent_rows] = 0.0
        self.tensors[name] = (self.dtype, shape, cast(values, self.dtype))

    def matrix(self, path, rows, cols, gain, silent_rows=0, experts=None):
        """`path`.weight [rows, cols], or its packed weight, scales and biases; with `experts`, one
        of these for each.

        The first `silent_rows` rows are zero: tokens that are never the likeliest.
        """
        stack = [] if experts is None else [experts]
        quantized = self.quantization_of(path, cols)
        if quantized is None:
            self.plain(f"{path}.weight", [*stack, rows, cols], cols, gain, silent_rows)
            return
        spread = half_range(cols, gain)
        key = stream_key(self.case["seed"], f"{path}.weight")
        each, rows = rows, rows * (experts or 1)
        bits, group = quantized
        words, groups = cols * bits // 32, cols // group
        packed = (splitmix64(key, rows * words) >> np.uint64(32)).astype("<u4")
        levels = np.float32((1 << bits) - 1)
        jitter = uniform(stream_key(self.case["seed"], f"{path}.scales"), rows * groups)
        scales = (np.float32(2.0) * spread / levels) * (np.float32(1.0) + np.float32(0.25) * jitter)
        biases = scales * (levels * np.float32(-0.5))
        shape = [*stack, each, groups]
        self.tensors[f"{path}.weight"] = ("U32", [*stack, each, words], packed)
        self.tensors[f"{path}.scales"] = (self.dtype, shape, cast(scales, self.dtype))
        self.tensors[f"{path}.biases"] = (self.dtype, shape, cast(biases, self.dtype))

    def linear(self, path, rows, cols, gain, bias):
        self.matrix(path, rows, cols, gain)
        if bias:
            self.vector(f"{path}.bias", rows, 0.0)


def text(case):
    """The part of config.json that describes the text model."""
    return case["config"].get("text_config", case["config"])


def roots(case):
    """Where the decoder's and the output head's tensors lie."""
    if "text_config" not in case["config"]:
        return "model", "lm_head"
    if case.get("layout") == "published":
        return "model.language_model", "lm_head"
    return "language_model.model", "language_model.lm_head"


def tensors(case):
    """All tensors of a case."""
    config, out = text(case), Builder(case)
    family, hidden, vocab = case["config"]["model_type"], config["hidden_size"], config["vocab_size"]
    root, head = roots(case)
    published = case.get("layout") == "published"

    # Embedding rows of unit deviation: `gain` is undone by sqrt(hidden). Gemma multiplies by it again.
    gemma = family.startswith("gemma3")
    out.matrix(f"{root}.embed_tokens", vocab, hidden, 1.0 if gemma else math.sqrt(hidden))
    for layer in range(config["num_hidden_layers"]):
        at = f"{root}.layers.{layer}"
        if family.startswith("qwen3_5"):
            qwen3_5_layer(out, config, at, layer, published)
        elif gemma:
            gemma3_layer(out, config, at)
        else:
            dense_layer(out, config, at, layer, published)
    centre = 0.0 if gemma or (published and family.startswith("qwen3_5")) else 1.0
    out.vector(f"{root}.norm.weight", hidden, centre)
    if not config["tie_word_embeddings"]:
        out.matrix(head, vocab, hidden, 3.0, case.get("silent_rows", 0))
    if published and "text_config" in case["config"]:
        # What a text model must leave alone.
        out.vector("model.visual.patch_embed.proj.weight", 8, 0.0)
        out.vector("mtp.norm.weight", hidden, 0.0)
    return out.tensors


def dense_layer(out, config, at, layer, published):
    """Llama, mistral, qwen2, qwen3, and qwen3 with experts."""
    family, hidden = config["model_type"], config["hidden_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim", hidden // heads)
    inner = config["intermediate_size"]
    qkv_bias = family == "qwen2" or config.get("attention_bias", False)
    o_bias = family != "qwen2" and config.get("attention_bias", False)
    mlp_bias = config.get("mlp_bias", False)

    out.vector(f"{at}.input_layernorm.weight", hidden, 1.0)
    out.linear(f"{at}.self_attn.q_proj", heads * head_dim, hidden, 2.0, qkv_bias)
    out.linear(f"{at}.self_attn.k_proj", kv_heads * head_dim, hidden, 2.0, qkv_bias)
    out.linear(f"{at}.self_attn.v_proj", kv_heads * head_dim, hidden, 2.0, qkv_bias)
    out.linear(f"{at}.self_attn.o_proj", hidden, heads * head_dim, 2.0, o_bias)
    if family in ("qwen3", "qwen3_moe"):
        out.vector(f"{at}.self_attn.q_norm.weight", head_dim, 1.0)
        out.vector(f"{at}.self_attn.k_norm.weight", head_dim, 1.0)
    out.vector(f"{at}.post_attention_layernorm.weight", hidden, 1.0)
    sparse = family == "qwen3_moe" and layer not in config["mlp_only_layers"]
    if sparse and (layer + 1) % config["decoder_sparse_step"] == 0:
        experts(out, config, at, published)
    else:
        mlp(out, f"{at}.mlp", hidden, inner, mlp_bias)


def mlp(out, at, hidden, inner, bias=False):
    out.linear(f"{at}.gate_proj", inner, hidden, 2.0, bias)
    out.linear(f"{at}.up_proj", inner, hidden, 2.0, bias)
    out.linear(f"{at}.down_proj", hidden, inner, 2.0, bias)


def experts(out, config, at, published):
    """A router and experts: stacked as mlx-lm writes them; or as published, which is one by one for
    qwen3_moe, and stacked with gate above up for qwen3_5_moe."""
    hidden, inner, count = config["hidden_size"], config["moe_intermediate_size"], config["num_experts"]
    shared = config.get("shared_expert_intermediate_size")
    out.linear(f"{at}.mlp.gate", count, hidden, 2.0, False)
    if published and shared:
        out.plain(f"{at}.mlp.experts.gate_up_proj", [count, 2 * inner, hidden], hidden, 2.0)
        out.plain(f"{at}.mlp.experts.down_proj", [count, hidden, inner], inner, 2.0)
    elif published:
        for expert in range(count):
            mlp(out, f"{at}.mlp.experts.{expert}", hidden, inner)
    else:
        out.matrix(f"{at}.mlp.switch_mlp.gate_proj", inner, hidden, 2.0, experts=count)
        out.matrix(f"{at}.mlp.switch_mlp.up_proj", inner, hidden, 2.0, experts=count)
        out.matrix(f"{at}.mlp.switch_mlp.down_proj", hidden, inner, 2.0, experts=count)
    if shared:
        mlp(out, f"{at}.mlp.shared_expert", hidden, shared)
        out.linear(f"{at}.mlp.shared_expert_gate", 1, hidden, 2.0, False)


def qwen3_5_layer(out, config, at, layer, published):
    """Qwen3.5. As published, norms are stored as their distance from 1."""
    hidden, centre = config["hidden_size"], 0.0 if published else 1.0
    out.vector(f"{at}.input_layernorm.weight", hidden, centre)
    if (layer + 1) % config["full_attention_interval"] == 0:
        heads, kv_heads, head_dim = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        out.linear(f"{at}.self_attn.q_proj", 2 * heads * head_dim, hidden, 2.0, False)
        out.linear(f"{at}.self_attn.k_proj", kv_heads * head_dim, hidden, 2.0, False)
        out.linear(f"{at}.self_attn.v_proj", kv_heads * head_dim, hidden, 2.0, False)
        out.linear(f"{at}.self_attn.o_proj", hidden, heads * head_dim, 2.0, False)
        out.vector(f"{at}.self_attn.q_norm.weight", head_dim, centre)
        out.vector(f"{at}.self_attn.k_norm.weight", head_dim, centre)
    else:
        delta, heads = f"{at}.linear_attn", config["linear_num_value_heads"]
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        values, kernel = heads * config["linear_value_head_dim"], config["linear_conv_kernel_dim"]
        channels = 2 * keys + values
        shape = [channels, 1, kernel] if published else [channels, kernel, 1]
        out.plain(f"{delta}.conv1d.weight", shape, kernel, 2.0)
        out.linear(f"{delta}.in_proj_qkv", channels, hidden, 2.0, False)
        out.linear(f"{delta}.in_proj_z", values, hidden, 2.0, False)
        out.linear(f"{delta}.in_proj_b", heads, hidden, 2.0, False)
        out.linear(f"{delta}.in_proj_a", heads, hidden, 2.0, False)
        # Decays that leave something of a token after a few dozen others.
        out.vector(f"{delta}.dt_bias", heads, -3.0)
        out.vector(f"{delta}.A_log", heads, 0.0)
        out.vector(f"{delta}.norm.weight", config["linear_value_head_dim"], 1.0)
        out.linear(f"{delta}.out_proj", hidden, values, 2.0, False)
    out.vector(f"{at}.post_attention_layernorm.weight", hidden, centre)
    if config.get("num_experts"):
        experts(out, config, at, published)
    else:
        mlp(out, f"{at}.mlp", hidden, config["intermediate_size"])


def gemma3_layer(out, config, at):
    """Gemma 3. Norms are stored as their distance from 1; those behind a sublayer are larger, so that
    the tied head does not only repeat the last token."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads, head_dim = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    out.vector(f"{at}.input_layernorm.weight", hidden, 0.0)
    out.linear(f"{at}.self_attn.q_proj", heads * head_dim, hidden, 2.0, False)
    out.linear(f"{at}.self_attn.k_proj", kv_heads * head_dim, hidden, 2.0, False)
    out.linear(f"{at}.self_attn.v_proj", kv_heads * head_dim, hidden, 2.0, False)
    out.linear(f"{at}.self_attn.o_proj", hidden, heads * head_dim, 2.0, False)
    out.vector(f"{at}.self_attn.q_norm.weight", head_dim, 0.0)
    out.vector(f"{at}.self_attn.k_norm.weight", head_dim, 0.0)
    out.vector(f"{at}.post_attention_layernorm.weight", hidden, 2.0)
    out.vector(f"{at}.pre_feedforward_layernorm.weight", hidden, 0.0)
    out.vector(f"{at}.post_feedforward_layernorm.weight", hidden, 2.0)
    mlp(out, f"{at}.mlp", hidden, inner)


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
