"""The cases that goldens are made for: every family with every rope variant in float32, every dtype,
every quantization width with every group size, and the oddities that checkpoints come with."""

VOCAB = 384

FAMILIES = {
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "mistral": {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": None,
    },
    "qwen2": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
        "sliding_window": 32,
        "max_window_layers": 2,
    },
    "qwen3": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "attention_bias": False,
        "use_sliding_window": False,
    },
}

# Families that bring their own kinds of layers or weights. They are not crossed with every rope
# variant and width: that is the dense families' part.
MORE_FAMILIES = {
    "qwen3_moe": FAMILIES["qwen3"] | {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 64,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    "qwen3_5": {
        "model_type": "qwen3_5",
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 2,
        "num_hidden_layers": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100000.0,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
        },
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 16,
        "sliding_window_pattern": 3,
        "num_hidden_layers": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
}
MORE_FAMILIES["qwen3_5_moe"] = MORE_FAMILIES["qwen3_5"] | {
    "model_type": "qwen3_5_moe",
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "norm_topk_prob": True,
}

# Small trained lengths, so that the frequencies which a variant changes matter within a golden. The
# dynamic variant crosses max_position_embeddings while it generates.
ROPES = {
    "default": ({}, 256),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 256),
    "llama3": (
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        512,
    ),
    "yarn": (
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        256,
    ),
    "dynamic": ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 64),
}


def case(name, family, dtype="F32", rope="default", hidden=64, shards=1, quantization=None, **config):
    """One case; keyword arguments change config.json (a value of `...` removes the key)."""
    scaling, length = ROPES[rope]
    base = (FAMILIES | MORE_FAMILIES)[family]
    full = base | {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": base.get("num_hidden_layers", 2),
        "vocab_size": VOCAB,
        "max_position_embeddings": length,
        "tie_word_embeddings": base.get("tie_word_embeddings", False),
        "bos_token_id": 1,
        "eos_token_id": 3,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype],
    }
    full = full | scaling | config
    full = {key: value for key, value in full.items() if value is not ...}
    if quantization is not None:
        full |= {"quantization": quantization, "quantization_config": quantization}
    return {"name": name, "dtype": dtype, "shards": shards, "seed": 1, "config": full}


def quantized(name, family, bits, group, dtype, rope="default", overrides=None, **more):
    """A quantized case. Hidden 128, so that every group size divides every matrix."""
    quantization = {"group_size": group, "bits": bits} | (overrides or {})
    return case(name, family, dtype, rope, hidden=128, quantization=quantization, **more)


def nested(case, layout=None):
    """The same text model as a multimodal checkpoint holds it: converted by mlx-lm, or as published."""
    text = case["config"]
    family = {"gemma3_text": "gemma3"}.get(text["model_type"], text["model_type"])
    outer = {"model_type": family, "architectures": text.pop("architectures"), "vision_config": {}}
    if family == "gemma3":
        outer["vocab_size"] = VOCAB
    else:
        text["model_type"] = f"{family}_text"
    for key in ("quantization", "quantization_config"):
        if key in text:
            outer[key] = text.pop(key)
    return case | {"config": outer | {"text_config": text}} | ({"layout": layout} if layout else {})


def published(case):
    """The same model in its publisher's layout of weights."""
    return case | {"layout": "published"}


def more_cases():
    """Families with experts, recurrent layers or windows: each kind of layer, layout and dtype."""
    qwen, moe, both, gemma = "qwen3_5", "qwen3_moe", "qwen3_5_moe", "gemma3_text"
    gate_bits = {"group_size": 64, "bits": 8}
    gates = {f"model.layers.{layer}.mlp.gate": gate_bits for layer in range(2)}
    all_gates = {f"language_model.model.layers.{layer}.mlp.{name}": gate_bits
                 for layer in range(4) for name in ("gate", "shared_expert_gate")}
    return [
        nested(case("qwen3_5-default-f32", qwen)),
        nested(case("qwen3_5-published-f32", qwen), "published"),
        # The last layer is a recurrent one.
        case("qwen3_5-flat-tied-f32", qwen, num_hidden_layers=3, tie_word_embeddings=True),
        nested(case("qwen3_5-bf16", qwen, "BF16")),
        nested(case("qwen3_5-published-bf16", qwen, "BF16"), "published"),
        nested(quantized("qwen3_5-q4-g64-f32", qwen, 4, 64, "F32")),

        case("qwen3_moe-default-f32", moe),
        published(case("qwen3_moe-published-f32", moe)),
        case("qwen3_moe-mixed-tied-f32", moe, num_hidden_layers=4, decoder_sparse_step=2,
             mlp_only_layers=[3], norm_topk_prob=False, tie_word_embeddings=True),
        case("qwen3_moe-bf16", moe, "BF16"),
        quantized("qwen3_moe-q4-g64-f32", moe, 4, 64, "F32"),
        quantized("qwen3_moe-q4-g64-bf16", moe, 4, 64, "BF16", overrides=gates),

        nested(case("qwen3_5_moe-default-f32", both)),
        nested(case("qwen3_5_moe-published-f32", both), "published"),
        nested(case("qwen3_5_moe-bf16", both, "BF16")),
        nested(quantized("qwen3_5_moe-q4-g64-bf16", both, 4, 64, "BF16", overrides=all_gates)),
        nested(quantized("qwen3_5_moe-q4-g64-f32", both, 4, 64, "F32")),

        case("gemma3_text-default-f32", gemma),
        # Longer than a sliding layer's first buffer, so that it forgets.
        case("gemma3_text-long-f32", gemma, rope="llama3", rope_scaling=...) | {"lengths": [250, 400]},
        case("gemma3_text-untied-f32", gemma, tie_word_embeddings=False),
        case("gemma3_text-bf16", gemma, "BF16"),
        case("gemma3_text-f16", gemma, "F16"),
        nested(case("gemma3-linear-f32", gemma, rope="linear")),
        nested(quantized("gemma3-q4-g64-f32", gemma, 4, 64, "F32", tie_word_embeddings=False)),
    ]


def all_cases():
    cases = []
    for family in FAMILIES:
        for rope in ROPES:
            cases.append(case(f"{family}-{rope}-f32", family, rope=rope))
        cases.append(case(f"{family}-bf16", family, "BF16"))
        cases.append(case(f"{family}-f16", family, "F16"))
    cases += [
        # What checkpoints come with.
        case("llama-mha-f32", "llama", num_key_value_heads=..., attention_bias=..., mlp_bias=...),
        case("llama-tied-llama3-bf16", "llama", "BF16", "llama3", tie_word_embeddings=True),
        case("llama-bias-f32", "llama", attention_bias=True, mlp_bias=True),
        case("llama-head-dim-f32", "llama", head_dim=32),
        case("llama-sharded-bf16", "llama", "BF16", shards=3),
        case("llama-dynamic-bf16", "llama", "BF16", "dynamic"),
        case("llama-sliding-f32", "llama", sliding_window=16, num_hidden_layers=3,
             layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        case("mistral-head-dim-bf16", "mistral", "BF16", head_dim=32),
        case("mistral-window-unreached-f32", "mistral", sliding_window=4096),
        case("qwen2-tied-sharded-f16", "qwen2", "F16", shards=2, tie_word_embeddings=True),
        case("qwen3-tied-bf16", "qwen3", "BF16", tie_word_embeddings=True),
        case("qwen3-rope-parameters-f32", "qwen3", rope_theta=...,
             rope_parameters={"rope_theta": 5000000.0, "rope_type": "default"}),
        # Every width with every group size, over families, dtypes and rope variants.
        quantized("llama-q2-g32-f32", "llama", 2, 32, "F32"),
        quantized("llama-q3-g64-f16", "llama", 3, 64, "F16", "llama3"),
        quantized("llama-q4-g64-bf16", "llama", 4, 64, "BF16", "llama3"),
        quantized("llama-q4-g128-f32", "llama", 4, 128, "F32"),
        quantized("llama-q6-g32-f16", "llama", 6, 32, "F16", "linear"),
        quantized("mistral-q3-g128-f32", "mistral", 3, 128, "F32"),
        quantized("mistral-q4-g32-f16", "mistral", 4, 32, "F16"),
        quantized("mistral-q5-g64-f16", "mistral", 5, 64, "F16", "yarn"),
        quantized("mistral-q8-g64-bf16", "mistral", 8, 64, "BF16"),
        quantized("qwen2-q2-g128-f16", "qwen2", 2, 128, "F16"),
        quantized("qwen2-q4-g64-f16", "qwen2", 4, 64, "F16", "yarn"),
        quantized("qwen2-q5-g32-f32", "qwen2", 5, 32, "F32"),
        quantized("qwen2-q6-g128-f32", "qwen2", 6, 128, "F32", "dynamic"),
        quantized("qwen2-q8-g128-f16", "qwen2", 8, 128, "F16"),
        quantized("qwen3-q2-g64-f32", "qwen3", 2, 64, "F32"),
        quantized("qwen3-q3-g32-f16", "qwen3", 3, 32, "F16"),
        quantized("qwen3-q4-g64-bf16", "qwen3", 4, 64, "BF16"),
        quantized("qwen3-q5-g128-f16", "qwen3", 5, 128, "F16", "linear"),
        quantized("qwen3-q6-g64-f16", "qwen3", 6, 64, "F16"),
        quantized("qwen3-q8-g32-f32", "qwen3", 8, 32, "F32", "yarn"),
        # Quantization as converters vary it.
        quantized("llama-q4-tied-f32", "llama", 4, 32, "F32", tie_word_embeddings=True),
        quantized("llama-q4-bias-sharded-f16", "llama", 4, 64, "F16", shards=2, attention_bias=True, mlp_bias=True),
        quantized("qwen3-q4-overrides-f16", "qwen3", 4, 64, "F16", overrides={
            "model.embed_tokens": False,
            "lm_head": {"group_size": 32, "bits": 8},
            "model.layers.0.self_attn.o_proj": {"group_size": 128, "bits": 6},
            "model.layers.1.mlp.down_proj": False,
            "model.layers.1.self_attn.v_proj": {"group_size": 64, "bits": 3},
        }),
    ]
    return cases + more_cases()
