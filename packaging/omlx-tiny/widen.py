"""Widens the small first-phase model by an exact copying circuit, which the second phase keeps fixed.

The first phase (`start.py`) trains a copying circuit together with all else and so wears it out. The
second phase gives it residual dimensions of its own, which no trained weight writes to before the
circuit has read them:

    CODE     a code per token: directions spread evenly, so that no two tokens are alike
    LONG     CODE and the sum over the 4 tokens before of their turned and fading codes, which marks
             the context; after layer 1 the votes for the next token, each that token's code
    SHORT    the same sum, fading so fast that it is nearly the last token alone
    ONE      constant
    FLAG     1 where a text begins (the place to look at when nothing matches), -1 on tokens that
             are never copied

Layer 0 looks back 1 to 4 tokens, by position only, and writes LONG and SHORT. Layer 1 makes from
CODE and LONG what LONG will be one token later, looks for the places where it already is that, at
any distance, and adds the code found there to LONG: a vote for the token that came next there.
In layers 2 and 3 the heads of one group vote for the token that they look at; where they look is
trained, so they find what the circuit then continues. The other dimensions, MLPs and layers start from the first phase; layers 0 and 1 get new heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model import Attention, Config, Qwen3

MAIN = 192
SIZE = 42
CODE = slice(MAIN, MAIN + SIZE)
LONG = slice(CODE.stop, CODE.stop + SIZE)
SHORT = slice(LONG.stop, LONG.stop + SIZE)
ONE, FLAG = SHORT.stop, SHORT.stop + 1
WIDTH = FLAG + 1
ROPE_THETA = 1e16
FADES = (0.8, 0.35)
CODE_NORM = 1.5
# Rotary pairs: the first tell neighbours apart; from the tenth on they hardly turn at any distance.
LOOK_PAIRS = {0: 3.0, 1: 2.0, 2: 1.5, 3: 1.5}
SLOW_PAIRS = range(10, 32)
LOOK_SHARPNESS, MATCH_SHARPNESS = 4.5, 2.9
NOTHING = (0.62, 0.66)  # how alike two contexts must at least be
NOTHING_KEY = 30.0
VOTES = (10.0, 5.0)  # weights of the tokens found, by the long and by the short context
VOTE_GAIN = 10.0  # makes the votes about 13 logits
POINT_GAIN, POINT_VOTE = 14.0, 10.0
NEVER_COPIED = ("String", "Number")


def config(vocab_size: int) -> Config:
    """The widened model's configuration."""
    return Config(vocab_size=vocab_size, hidden_size=WIDTH, rope_theta=ROPE_THETA)


def spread_codes(count: int, size: int, steps: int = 150) -> Tensor:
    """`count` directions, pushed apart."""
    codes = torch.randn(count, size, requires_grad=True)
    optimizer = torch.optim.Adam([codes], 0.02)
    for _ in range(steps):
        unit = F.normalize(codes, dim=1)
        part = torch.randint(count, (1024,))
        alike = unit[part] @ unit.T
        alike[torch.arange(1024), part] = -1
        optimizer.zero_grad()
        torch.logsumexp(18 * alike, 1).mean().backward()
        optimizer.step()
    return F.normalize(codes.detach(), dim=1)


def turn(size: int) -> Tensor:
    """A random rotation."""
    return torch.linalg.qr(torch.randn(size, size))[0]


@torch.no_grad()
def widen(old: dict[str, Tensor], vocabulary: dict[str, int]) -> Qwen3:
    """The widened model; `old` are the weights of the first phase."""
    model = Qwen3(config(len(old["embed_tokens.weight"])))
    c = model.c
    for name, p in model.named_parameters():
        p.zero_()
        part = old[name]
        p[tuple(slice(0, n) for n in part.shape)] = part
    embedding = model.embed_tokens.weight
    main = old["embed_tokens.weight"]
    with torch.enable_grad():
        codes = spread_codes(len(main), SIZE)
    embedding[:, CODE] = CODE_NORM * codes
    embedding[:, LONG] = CODE_NORM * codes
    embedding[:, ONE] = 1.0
    for token, index in vocabulary.items():
        if "?" in token or token in NEVER_COPIED:
            embedding[index, FLAG] = -1.0
    begin = vocabulary["<|im_start|>"]
    embedding[begin, CODE] = embedding[begin, LONG] = 0.0
    embedding[begin, FLAG] = 1.0
    energy = main.pow(2).sum(1).mean()
    smaller = ((energy + 2 * CODE_NORM**2 + 1) / energy * MAIN / WIDTH) ** 0.5
    for name, p in model.named_parameters():
        if "layernorm" in name or name == "norm.weight":
            p.mul_(smaller)
            p[MAIN:] = 1.0
    scale = (embedding.pow(2).mean(1).mean()) ** 0.5  # of the residual, as layer 0's norm sees it
    turns = (turn(SIZE), turn(SIZE))
    _look_back(model, turns, scale)
    _match(model, turns)
    for layer in model.layers[2:]:
        _move_pairs(layer.self_attn, c.head_dim)
        _point(layer.self_attn, c.head_dim)
        layer.input_layernorm.weight[CODE] = POINT_GAIN
    model.norm.weight[MAIN:] = 0.0
    model.norm.weight[LONG] = VOTE_GAIN
    return model


def _look_back(model: Qwen3, turns: tuple[Tensor, Tensor], scale: Tensor) -> None:
    """Layer 0: query head j attends j + 1 tokens back and adds that token's code to LONG and SHORT."""
    attention, size = model.layers[0].self_attn, model.c.head_dim
    attention.q_norm.weight.fill_(LOOK_SHARPNESS)
    attention.k_norm.weight.fill_(LOOK_SHARPNESS)
    q, k, v, o = (getattr(attention, f"{n}_proj").weight for n in "qkvo")
    old_v, old_o = v[:, :MAIN].clone(), o[:MAIN].clone()
    for p in (q, k, v, o):
        p.zero_()
    heads, groups = model.c.num_attention_heads, model.c.num_key_value_heads
    for pair, weight in LOOK_PAIRS.items():
        for group in range(groups):
            k[group * size + pair, ONE] = weight**0.5
        for head in range(heads):
            angle = (head + 1) * model.frequencies[pair]
            q[head * size + pair, ONE] = weight**0.5 * angle.cos()
            q[head * size + size // 2 + pair, ONE] = -(weight**0.5) * angle.sin()
    for group in range(groups):
        v[group * size : group * size + SIZE, CODE] = torch.eye(SIZE)
        members = range(group * heads // groups, (group + 1) * heads // groups)
        _keep_best(v, o, old_v, old_o, group, members, size)
        for head in members:
            columns = slice(head * size, head * size + SIZE)
            for dims, fade, rotation in zip((LONG, SHORT), FADES, turns):
                o[dims, columns] = scale * fade**head * torch.linalg.matrix_power(rotation, head + 1)


def _keep_best(v: Tensor, o: Tensor, old_v: Tensor, old_o: Tensor, group: int, members: range, size: int) -> None:
    """Let the values' dimensions after SIZE carry the best of what the group's heads carried before."""
    spare = size - SIZE
    own = old_v[group * size : (group + 1) * size]
    both = torch.cat([old_o[:, h * size : (h + 1) * size] @ own for h in members])
    left, strength, right = torch.linalg.svd(both, full_matrices=False)
    v[group * size + SIZE : (group + 1) * size, :MAIN] = strength[:spare, None].sqrt() * right[:spare, :MAIN]
    for i, head in enumerate(members):
        rest = slice(head * size + SIZE, (head + 1) * size)
        o[:MAIN, rest] = left[i * MAIN : (i + 1) * MAIN, :spare] * strength[:spare].sqrt()


@torch.no_grad()
def _point(attention: Attention, size: int) -> None:
    """Layers 2 and 3: the second group's heads vote for the token they look at."""
    v, o = attention.v_proj.weight, attention.o_proj.weight
    old_v, old_o = v.clone()[:, :MAIN], o.clone()[:MAIN]
    v[size:] = 0.0
    o[:, 2 * size :] = 0.0
    v[size : size + SIZE, CODE] = torch.eye(SIZE)
    _keep_best(v, o, old_v, old_o, 1, range(2, 4), size)
    for head in (2, 3):
        o[LONG, head * size : head * size + SIZE] = POINT_VOTE * torch.eye(SIZE)


def _match(model: Qwen3, turns: tuple[Tensor, Tensor]) -> None:
    """Layer 1: attend where the context before was the present one; vote for the token there."""
    attention, size = model.layers[1].self_attn, model.c.head_dim
    attention.q_norm.weight.fill_(MATCH_SHARPNESS)
    attention.k_norm.weight.fill_(MATCH_SHARPNESS)
    q, k, v, o = (getattr(attention, f"{n}_proj").weight for n in "qkvo")
    for p in (q, k, v, o):
        p.zero_()
    slots = [pair + half for pair in SLOW_PAIRS for half in (0, size // 2)]
    content, nothing = slots[:SIZE], slots[SIZE + 1]
    repeat = model.c.num_attention_heads // model.c.num_key_value_heads
    for group, (dims, fade, rotation) in enumerate(zip((LONG, SHORT), FADES, turns)):
        base = group * size
        for i, slot in enumerate(content):
            k[base + slot, dims.start + i] = 1.0
            if dims == LONG:
                k[base + slot, CODE.start + i] = -1.0
        k[base + nothing, FLAG] = NOTHING_KEY
        v[base : base + SIZE, CODE] = torch.eye(SIZE)
        v[base + SIZE : base + size, :MAIN] = torch.randn(size - SIZE, MAIN) * MAIN**-0.5
        length = CODE_NORM * (1 - fade**10) ** 0.5 / (1 - fade**2) ** 0.5
        for member in range(repeat):
            row = (group * repeat + member) * size
            for i, slot in enumerate(content):
                q[row + slot, CODE] = rotation[i] * (1 - fade if dims == LONG else 1)
                q[row + slot, dims] = fade * rotation[i]
            q[row + nothing, ONE] = length * NOTHING[group]
        column = group * repeat * size
        o[LONG, column : column + SIZE] = VOTES[group] * torch.eye(SIZE)


def _move_pairs(attention: Attention, size: int) -> None:
    """Put rotary pairs where they turn as fast as before; those without such a place, on slow ones."""
    half = size // 2
    fast = {pair: pair // 2 for pair in range(0, half // 2, 2)}
    slow = {pair: pair - half // 2 + half // 4 for pair in range(half // 2, half)}
    places = {**fast, **slow}
    free = iter(sorted(set(range(half)) - set(places.values())))
    for pair in range(half):
        if pair not in places:
            places[pair] = next(free)
    old = torch.arange(half)
    new = torch.tensor([places[pair] for pair in range(half)])
    order = torch.empty(size, dtype=torch.long)
    order[new], order[half + new] = old, half + old
    for name in ("q", "k"):
        weight = getattr(attention, f"{name}_proj").weight
        weight.copy_(weight.view(-1, size, weight.shape[1])[:, order].reshape(weight.shape))
        gain = getattr(attention, f"{name}_norm").weight
        gain.copy_(gain[order])


def fixed(model: Qwen3) -> dict[str, Tensor]:
    """Per parameter that holds a part of the circuit, which of its entries training leaves alone."""
    size, heads = model.c.head_dim, model.c.num_attention_heads
    masks = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    masks["embed_tokens.weight"][:, MAIN:] = True
    for layer in (0, 1):
        at = f"layers.{layer}."
        for name in ("q_proj", "k_proj", "q_norm", "k_norm"):
            masks[f"{at}self_attn.{name}.weight"][:] = True
        values = masks[f"{at}self_attn.v_proj.weight"].view(-1, size, WIDTH)
        values[:, :SIZE] = True
        masks[f"{at}self_attn.o_proj.weight"][MAIN:] = True
        masks[f"{at}input_layernorm.weight"][MAIN:] = True
    masks["layers.0.mlp.down_proj.weight"][MAIN:] = True
    for layer in range(2, model.c.num_hidden_layers):
        at = f"layers.{layer}."
        masks[f"{at}self_attn.v_proj.weight"][size : size + SIZE] = True
        for head in (2, 3):
            masks[f"{at}self_attn.o_proj.weight"][LONG, head * size : head * size + SIZE] = True
        # Nothing may write to CODE.
        masks[f"{at}self_attn.o_proj.weight"][CODE] = True
        masks[f"{at}input_layernorm.weight"][CODE] = True
    for layer in range(1, model.c.num_hidden_layers):
        masks[f"layers.{layer}.mlp.down_proj.weight"][CODE] = True
    queries = masks["layers.1.self_attn.q_proj.weight"].view(heads, size, WIDTH)
    queries[1::2] = False  # the second head of each group may look for something else
    return {n: m for n, m in masks.items() if m.any()}
