"""The copying circuit that omlx-tiny starts with and that training leaves as it is.

A transformer that recalls must first find heads that look back and heads that match, which takes more
tokens than two CPU cores can afford, and training them together with all else wears them out. So the
first two layers are laid out here, in residual dimensions of their own:

    CODE     a code per token: directions spread evenly, so that no two tokens are alike; a token with
             a space before it has the code of the one without
    SPACED   which of the two it is
    LONG     CODE and the sum over the 4 tokens before of their turned and fading codes, which marks
             the context; after layer 1 also the votes for the next token, each that token's code
    VOTED    SPACED of the votes
    SHORT    the same sum, fading so fast that it is nearly the last token alone
    ONE      constant
    FLAG     1 where a message begins (the place to look at when nothing matches), -1 on tokens that
             are never copied

Layer 0 looks back 1 to 4 tokens, by position only, and writes LONG and SHORT. Layer 1 makes from
CODE and LONG what LONG will be one token later, looks for the places where it already is that, at
any distance, and adds the code found there to LONG: a vote for the token that came next there. It does
the same with SHORT, where near places win. In the later layers the heads of one group vote for the
token that they look at; where they look is trained, so they find what the circuit then continues.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import Config, Qwen3

MAIN = 156
SIZE = 42
CODE = slice(MAIN, MAIN + SIZE)
SPACED = CODE.stop
LONG = slice(SPACED + 1, SPACED + 1 + SIZE)
VOTED = LONG.stop
SHORT = slice(VOTED + 1, VOTED + 1 + SIZE)
ONE, FLAG = SHORT.stop, SHORT.stop + 1
WIDTH = FLAG + 1
COPIED = slice(CODE.start, SPACED + 1)
VOTES = slice(LONG.start, VOTED + 1)
ROPE_THETA = 1e16
FADES = (0.8, 0.35)
MAIN_NORM, CODE_NORM, SPACE_MARK = 3.0, 1.5, 0.6
# Rotary pairs: the first tell neighbours apart, the next near from far; from the tenth on they hardly
# turn at any distance.
LOOK_PAIRS = {0: 3.0, 1: 2.0, 2: 1.5, 3: 1.5}
NEAR_PAIRS = (4, 5, 6)
SLOW_PAIRS = range(10, 32)
LOOK_SHARPNESS, MATCH_SHARPNESS = 4.5, 2.9
NEARNESS = 0.15  # share of the short match's score that nearness makes
NOTHING = (0.62, 0.66)  # how alike two contexts must at least be
NOTHING_KEY = 30.0
FOUND_VOTES = (4.0, 2.0)  # weights of the tokens found, by the long and by the short context
POINT_VOTE = 6.0
VOTE_GAIN = 1.6
NEVER_COPIED = ("String", "Number", "?")


def config(vocab_size: int) -> Config:
    """The model's configuration."""
    return Config(vocab_size=vocab_size, hidden_size=WIDTH, rope_theta=ROPE_THETA)


def spread_codes(count: int, steps: int = 150) -> Tensor:
    """`count` directions, pushed apart."""
    codes = torch.randn(count, SIZE, requires_grad=True)
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


def turn() -> Tensor:
    """A random rotation of codes."""
    return torch.linalg.qr(torch.randn(SIZE, SIZE))[0]


def lay_out(vocabulary: dict[str, int]) -> Qwen3:
    """A new model: random weights, and the circuit."""
    model = Qwen3(config(len(vocabulary)))
    for p in model.parameters():
        if p.dim() == 2:
            nn.init.normal_(p, std=WIDTH**-0.5)
    codes = spread_codes(len(vocabulary))
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        _embed(model.embed_tokens.weight, codes, vocabulary)
        turns = (turn(), turn())
        _look_back(model, turns)
        _match(model, turns)
        for layer in model.layers[2:]:
            _point(layer.self_attn, model.c.head_dim)
        _seek_alike(model.layers[2].self_attn, model.c.head_dim)
        model.norm.weight[MAIN:] = 0.0
        model.norm.weight[VOTES] = VOTE_GAIN
    return model


def _embed(embedding: Tensor, codes: Tensor, vocabulary: dict[str, int]) -> None:
    embedding[:, MAIN:] = 0.0
    for token, index in vocabulary.items():
        bare = vocabulary.get(token.removeprefix("Ġ"), index)
        embedding[index, CODE] = embedding[index, LONG] = CODE_NORM * codes[bare]
        spaced = SPACE_MARK if bare != index else -SPACE_MARK if f"Ġ{token}" in vocabulary else 0.0
        embedding[index, SPACED] = embedding[index, VOTED] = spaced
        if token.removeprefix("Ġ") in NEVER_COPIED:
            embedding[index, FLAG] = -1.0
    embedding[:, ONE] = 1.0
    begin = vocabulary["<|im_start|>"]
    embedding[begin, COPIED] = embedding[begin, VOTES] = 0.0
    embedding[begin, FLAG] = 1.0
    hold_norm(embedding)


@torch.no_grad()
def hold_norm(embedding: Tensor) -> None:
    """Give the trained part of every token's embedding the same length, so that layer 0 sees one scale."""
    embedding[:, :MAIN] *= MAIN_NORM / embedding[:, :MAIN].norm(dim=1, keepdim=True)


def _look_back(model: Qwen3, turns: tuple[Tensor, Tensor]) -> None:
    """Layer 0: query head j attends j + 1 tokens back and adds that token's code to LONG and SHORT."""
    attention, size = model.layers[0].self_attn, model.c.head_dim
    attention.q_norm.weight.fill_(LOOK_SHARPNESS)
    attention.k_norm.weight.fill_(LOOK_SHARPNESS)
    q, k, v, o = (getattr(attention, f"{n}_proj").weight for n in "qkvo")
    q.zero_()
    k.zero_()
    energy = MAIN_NORM**2 + 2 * CODE_NORM**2 + 2 * SPACE_MARK**2 + 1
    scale = (energy / WIDTH) ** 0.5  # what layer 0's norm divides by
    heads, groups = model.c.num_attention_heads, model.c.num_key_value_heads
    for pair, weight in LOOK_PAIRS.items():
        for group in range(groups):
            k[group * size + pair, ONE] = weight**0.5
        for head in range(heads):
            angle = (head + 1) * model.frequencies[pair]
            q[head * size + pair, ONE] = weight**0.5 * angle.cos()
            q[head * size + size // 2 + pair, ONE] = -(weight**0.5) * angle.sin()
    for group in range(groups):
        v[group * size : group * size + SIZE] = 0.0
        v[group * size : group * size + SIZE, CODE] = torch.eye(SIZE)
    for head in range(heads):
        columns = slice(head * size, head * size + SIZE)
        for dims, fade, rotation in zip((LONG, SHORT), FADES, turns):
            o[dims, columns] = scale * fade**head * torch.linalg.matrix_power(rotation, head + 1)


def _slots(size: int) -> list[int]:
    """The dimensions of a head that hardly turn."""
    return [pair + half for pair in SLOW_PAIRS for half in (0, size // 2)]


def _match(model: Qwen3, turns: tuple[Tensor, Tensor]) -> None:
    """Layer 1: attend where the context before was the present one; vote for the token there."""
    attention, size = model.layers[1].self_attn, model.c.head_dim
    attention.q_norm.weight.fill_(MATCH_SHARPNESS)
    attention.k_norm.weight.fill_(MATCH_SHARPNESS)
    q, k, v, o = (getattr(attention, f"{n}_proj").weight for n in "qkvo")
    k.zero_()
    slots = _slots(size)
    content, nothing = slots[:SIZE], slots[SIZE + 1]
    repeat = model.c.num_attention_heads // model.c.num_key_value_heads
    for group, (dims, fade, rotation) in enumerate(zip((LONG, SHORT), FADES, turns)):
        base, row = group * size, group * repeat * size
        q[row : row + size] = 0.0
        for i, slot in enumerate(content):
            k[base + slot, dims.start + i] = 1.0
            if dims == LONG:
                k[base + slot, CODE.start + i] = -1.0
            q[row + slot, CODE] = rotation[i] * (1 - fade if dims == LONG else 1)
            q[row + slot, dims] = fade * rotation[i]
        length = CODE_NORM * (1 - fade**10) ** 0.5 / (1 - fade**2) ** 0.5
        k[base + nothing, FLAG] = NOTHING_KEY
        q[row + nothing, ONE] = length * NOTHING[group]
        if dims == SHORT:
            for pair in NEAR_PAIRS:
                near = length * (NEARNESS / (1 - NEARNESS) / len(NEAR_PAIRS)) ** 0.5
                k[base + pair, ONE] = q[row + pair, ONE] = near
        v[base : base + SIZE + 1] = 0.0
        v[base : base + SIZE + 1, COPIED] = torch.eye(SIZE + 1)
        o[VOTES, row : row + SIZE + 1] = FOUND_VOTES[group] * torch.eye(SIZE + 1)


def _point(attention: nn.Module, size: int) -> None:
    """Later layers: the second group's heads vote for the token they look at."""
    v, o = attention.v_proj.weight, attention.o_proj.weight
    v[size : size + SIZE + 1] = 0.0
    v[size : size + SIZE + 1, COPIED] = torch.eye(SIZE + 1)
    for head in (2, 3):
        o[VOTES, head * size : head * size + SIZE + 1] = POINT_VOTE * torch.eye(SIZE + 1)


def _seek_alike(attention: nn.Module, size: int) -> None:
    """Layer 2: the second group starts by looking for places that follow the same token as here."""
    content = _slots(size)[:SIZE]
    for weight, base in ((attention.k_proj.weight, size), (attention.q_proj.weight, 2 * size)):
        weight[base : base + size] *= 0.3
        for i, slot in enumerate(content):
            weight[base + slot, SHORT.start + i] = 1.0


def fixed(model: Qwen3) -> dict[str, Tensor]:
    """Per parameter that holds a part of the circuit, which of its entries training leaves alone."""
    size, heads = model.c.head_dim, model.c.num_attention_heads
    masks = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    masks["embed_tokens.weight"][:, MAIN:] = True
    for layer in (0, 1):
        at = f"layers.{layer}."
        for name in ("q_proj", "k_proj", "q_norm", "k_norm"):
            masks[f"{at}self_attn.{name}.weight"][:] = True
        masks[f"{at}self_attn.v_proj.weight"].view(-1, size, WIDTH)[:, : SIZE + 1] = True
        masks[f"{at}self_attn.o_proj.weight"][MAIN:] = True
        masks[f"{at}input_layernorm.weight"][MAIN:] = True
    masks["layers.0.mlp.down_proj.weight"][MAIN:] = True
    for layer in range(2, model.c.num_hidden_layers):
        at = f"layers.{layer}."
        masks[f"{at}self_attn.v_proj.weight"][size : size + SIZE + 1] = True
        masks[f"{at}self_attn.o_proj.weight"][VOTES, 2 * size :] = True
        masks[f"{at}self_attn.o_proj.weight"][COPIED] = True  # nothing may write to CODE
        masks[f"{at}input_layernorm.weight"][COPIED] = True
    for layer in range(1, model.c.num_hidden_layers):
        masks[f"layers.{layer}.mlp.down_proj.weight"][COPIED] = True
    queries = masks["layers.1.self_attn.q_proj.weight"].view(heads, size, WIDTH)
    queries[1::2] = False  # the second head of each group may look for something else
    return {n: m for n, m in masks.items() if m.any()}


def voting(model: Qwen3) -> list[str]:
    """The parameters through which the circuit votes."""
    return [f"layers.{layer}.self_attn.o_proj.weight" for layer in range(1, model.c.num_hidden_layers)]
