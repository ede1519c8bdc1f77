"""The Qwen3 architecture in PyTorch, as small as omlx-tiny needs it; parameter names as published."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The keys of config.json."""

    vocab_size: int
    hidden_size: int = 288
    intermediate_size: int = 320
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e8
    max_position_embeddings: int = 131072

    def to_json(self, eos: int, pad: int) -> dict:
        """config.json of the exported model."""
        return {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **asdict(self),
            "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
            "initializer_range": 0.02, "rope_scaling": None, "sliding_window": None,
            "use_sliding_window": False, "tie_word_embeddings": True, "torch_dtype": "float16",
            "use_cache": True, "bos_token_id": None, "eos_token_id": eos, "pad_token_id": pad,
        }  # fmt: skip


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, c.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = nn.RMSNorm(c.head_dim, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
        """x: [B, T, hidden]; cos, sin: [B, 1, T, head_dim].

        With `back`, query head j is known to look only j + 1 tokens back, and is computed as that where
        there are so many; the first tokens, which have fewer before them, attend to what there is.
        """
        if not back:
            return self.o_proj(self._attend(x, cos, sin))
        b, t, _ = x.shape
        heads = self.c.num_attention_heads
        v = self.v_proj(x).view(b, t, -1, self.c.head_dim)
        repeat = heads // self.c.num_key_value_heads
        mixed = [F.pad(v[:, : t - head - 1, head // repeat], (0, 0, head + 1, 0)) for head in range(heads)]
        first = self._attend(x[:, :heads], cos[:, :, :heads], sin[:, :, :heads])
        return self.o_proj(torch.cat((first, torch.cat(mixed, -1)[:, heads:]), 1))

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """What all heads see, side by side: [B, T, heads * head_dim]."""
        b, t, _ = x.shape
        heads = (b, t, -1, self.c.head_dim)
        repeat = self.c.num_attention_heads // self.c.num_key_value_heads
        q = rotate(self.q_norm(self.q_proj(x).view(heads)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(heads)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, heads, T, head_dim]
        return mixed.transpose(1, 2).reshape(b, t, -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding over the two halves of the head."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] to [..., hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = Mlp(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> Tensor:
        """[B, T, hidden] to [B, T, hidden]."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, back)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """The model without its prefix `model.`; the embedding is also the output layer."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        half = torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim
        self.frequencies = 1.0 / c.rope_theta**half

    def forward(self, ids: Tensor, positions: Tensor, selected: Tensor) -> Tensor:
        """ids, positions: [B, T]; selected: indices into B * T. Returns logits [selected, vocab]."""
        angles = positions.float()[:, None, :, None] * self.frequencies
        angles = torch.cat((angles, angles), -1)
        x = self.embed_tokens(ids)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, back=not index)
        x = self.norm(x).flatten(0, 1)[selected]
        return x @ self.embed_tokens.weight.T
