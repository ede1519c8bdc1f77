"""The weights that training starts from: random, with a copying circuit laid out in two layers.

A transformer that recalls must first find "look back" heads and "match" heads, which takes more
tokens than two CPU cores can afford. So the first layer starts as heads that attend one, two and
three tokens back and note what stood there; the second starts as heads that attend to the place
whose notes equal the present text and predict what came next there. All of it is trained on.

Residual dimensions at the start: 0 is constant, TOKEN holds the token's random code, and BACK[j]
the codes (reduced to NOTE dimensions) of the tokens j + 1 back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model import Qwen3

TOKEN = slice(1, 96)
NOTE = 32
BACK = tuple(slice(96 + NOTE * j, 96 + NOTE * (j + 1)) for j in range(3))
CODE_SCALE = 0.3
# Rotary pairs that turn quickly tell near positions apart; slow ones hardly turn over thousands of
# tokens and carry content.
QUICK_PAIRS = range(0, 5)
SLOW_PAIRS = range(14, 32)
LOOK_SHARPNESS, MATCH_SHARPNESS = 2.2, 1.5
COPY_GAIN = 1.2
LOGIT_SCALE = 0.3


@torch.no_grad()
def lay_out(model: Qwen3) -> None:
    """Overwrite the random weights of `model` with the start described above."""
    width = model.c.hidden_size
    for p in model.parameters():
        if p.dim() == 2:
            nn.init.normal_(p, std=width**-0.5)
    for layer in model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    codes = model.embed_tokens.weight
    codes.zero_()
    codes[:, 0] = CODE_SCALE * 3
    codes[:, TOKEN].normal_(std=CODE_SCALE)
    codes[:, 96:].normal_(std=CODE_SCALE / 10)
    model.norm.weight.fill_(LOGIT_SCALE)
    reduce = torch.linalg.qr(torch.randn(TOKEN.stop - 1, NOTE))[0].T  # [NOTE, token code]
    _look_back(model, reduce)
    _match(model, reduce)
    for layer in model.layers[2:]:
        _alike(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, model.c.head_dim)


def _look_back(model: Qwen3, reduce: Tensor) -> None:
    """Layer 0: query head j attends j + 1 tokens back and writes that token's code to BACK[j]."""
    attention, size = model.layers[0].self_attn, model.c.head_dim
    attention.q_norm.weight.fill_(LOOK_SHARPNESS)
    attention.k_norm.weight.fill_(LOOK_SHARPNESS)
    q, k, v, o = (getattr(attention, f"{n}_proj").weight for n in "qkvo")
    q.mul_(0.02)
    k.mul_(0.02)
    for head in range(model.c.num_key_value_heads):
        for pair in QUICK_PAIRS:
            k[head * size + pair, 0] = 1.0
        v[head * size : head * size + NOTE].zero_()
        v[head * size : head * size + NOTE, TOKEN] = reduce
    for head in range(model.c.num_attention_heads):
        for pair in QUICK_PAIRS:
            angle = (head + 1) * model.frequencies[pair]
            q[head * size + pair, 0] = angle.cos()
            q[head * size + size // 2 + pair, 0] = -angle.sin()
        if head < len(BACK):
            o[BACK[head], head * size : head * size + NOTE] = CODE_SCALE * torch.eye(NOTE)


def _match(model: Qwen3, reduce: Tensor) -> None:
    """Layer 1: attend where the notes (1, 2, 3 back) equal the codes (0, 1, 2 back); copy the token."""
    attention, size = model.layers[1].self_attn, model.c.head_dim
    attention.q_norm.weight.fill_(MATCH_SHARPNESS)
    attention.k_norm.weight.fill_(MATCH_SHARPNESS)
    q, k, v, o = (getattr(attention, f"{n}_proj").weight for n in "qkvo")
    q.mul_(0.02)
    k.mul_(0.02)
    slots = [pair for pair in SLOW_PAIRS] + [size // 2 + pair for pair in SLOW_PAIRS]
    depths = ((1, 2), (2, 3))  # tokens compared, by key-value head and query head of its group
    for group, lengths in enumerate(depths):
        share = len(slots) // lengths[-1]
        for back in range(lengths[-1]):
            for i, slot in enumerate(slots[back * share : (back + 1) * share]):
                k[group * size + slot, BACK[back].start + i] = 1.0
                for member, length in enumerate(lengths):
                    row = (group * len(lengths) + member) * size + slot
                    if back == 0:
                        q[row, TOKEN] = reduce[i]
                    elif back < length:
                        q[row, BACK[back - 1].start + i] = 1.0
        first = TOKEN.start + group * (TOKEN.stop - TOKEN.start - size)
        v[group * size : (group + 1) * size].zero_()
        v[group * size : (group + 1) * size, first : first + size] = torch.eye(size)
        for member in range(len(lengths)):
            column = (group * len(lengths) + member) * size
            o[first : first + size, column : column + size] = CODE_SCALE * COPY_GAIN * torch.eye(size)


def _alike(q: Tensor, k: Tensor, size: int) -> None:
    """Later layers: queries start like the keys of their group, so like attends to like."""
    repeat = q.shape[0] // k.shape[0]
    q.copy_(0.7 * k.view(-1, 1, size, k.shape[1]).expand(-1, repeat, -1, -1).reshape(q.shape) + 0.7 * q)
