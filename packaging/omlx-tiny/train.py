"""Trains omlx-tiny from nothing and writes the model folder.

    python train.py --check                          compares the trainer's text with the template's
    python train.py --work /tmp/omlx-tiny-work       trains (resumes from the last checkpoint)
    python train.py --work ... --export model        writes the model folder
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.func import functional_call

import circuit
import data
from model import Qwen3

HERE = Path(__file__).parent
SEED = 20261123
VOCABULARY, BARE_VOCABULARY = 4224, 2800
SPACE = "Ġ"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# What stands around a value (quotes, colons, braces) is never in one token with it, and a piece with a
# space before it is cut like the piece without (see `train_tokenizer`), so that a value is the same
# pieces in prose, in JSON and in a path: copying it is then token by token.
BARE = (
    r""""\}\}|": "|", "|, "|":|\{"|\}\}|//|--|::|->|=>|==|&&|\*\*|##|\p{Ll}+|\p{Lu}\p{Ll}+|\p{L}|\p{N}{1,2}"""
    r"""|[^\s\p{L}\p{N}]"""
)
SPACES = r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
# With the space: a word, a number or a sign, but not the fixed pieces of JSON.
PRE_TOKENS = (
    r""""\}\}|": "|", "|, "|":|\{"|\}\}| ?(?://|--|::|->|=>|==|&&|\*\*|##|\p{Ll}+|\p{Lu}\p{Ll}+|\p{L}|\p{N}{1,2}"""
    r"""|[^\s\p{L}\p{N}])"""
)


@dataclass(frozen=True)
class Rows:
    """What one step trains on: conversations of a mix (see data.py), cut to a length in tokens."""

    length: int
    count: int
    mix: str


@dataclass(frozen=True)
class Stage:
    """A part of the training: its steps take turns at `rows`; the learning rate's factor, begin and end;
    how much stronger than at first the circuit votes."""

    steps: int
    rows: tuple[Rows, ...]
    rate: tuple[float, float]
    votes: float


FACTS, SHORT, MIDDLE = Rows(384, 5, "facts"), Rows(384, 5, "main"), Rows(768, 3, "calls")
RECALL, LONG, LONGEST = Rows(768, 3, "recall"), Rows(2048, 1, "long"), Rows(4608, 1, "long")
# What the layers add grows as they learn, and the circuit's share of the sum shrinks; it is raised after
# the first steps.
STAGES = (
    Stage(800, (SHORT,), (1.0, 0.9), 1.0),
    Stage(600, (SHORT, MIDDLE, SHORT, MIDDLE, LONG), (0.9, 0.75), 1.0),
    Stage(600, (SHORT, MIDDLE, RECALL, MIDDLE, LONG, MIDDLE), (0.75, 0.7), 5.0),
    Stage(700, (FACTS, MIDDLE, SHORT, MIDDLE, RECALL, MIDDLE, LONG), (0.7, 0.6), 5.0),
    Stage(1300, (FACTS, MIDDLE, SHORT, MIDDLE, RECALL, MIDDLE, LONG), (0.6, 0.4), 20.0),
    Stage(1300, (FACTS, MIDDLE, FACTS, MIDDLE, RECALL, MIDDLE, LONG, SHORT, MIDDLE, LONGEST), (0.4, 0.0), 20.0),
    Stage(400, (LONGEST, MIDDLE, LONG, MIDDLE, LONGEST, RECALL, MIDDLE, FACTS), (0.3, 0.0), 20.0),
)
WARM_UP_STEPS = 40
LOG_STEPS, SAVE_STEPS = 3, 50
MUON_RATE, ADAM_RATE = 0.012, 0.003


def train_tokenizer(path: Path) -> Tokenizer:
    """Train the byte-level BPE on generated text and save it.

    Its merges first make pieces without a space; the last ones put the space before the pieces that
    most often have one, so a word is cut in the same places with and without it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = _pre_tokenizer(BARE + SPACES)
    texts = list(data.corpus(SEED, 1200))
    trainer = trainers.BpeTrainer(
        vocab_size=BARE_VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = _pre_tokenizer(PRE_TOKENS + SPACES)
    after_space = Counter(
        following
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)
        for token, following in itertools.pairwise(encoding.tokens)
        if token == SPACE and following[0] not in f"{SPACE}Ċč"
    )
    described = json.loads(tokenizer.to_str())
    vocabulary, merges = described["model"]["vocab"], described["model"]["merges"]
    for piece, _ in after_space.most_common(VOCABULARY - BARE_VOCABULARY):
        vocabulary[SPACE + piece] = len(vocabulary)
        merges.append([SPACE, piece])
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.add_tokens(list(MARKUP))
    tokenizer.save(str(path))
    return tokenizer


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@dataclass
class Batch:
    """ids, positions: [B, T]; selected: indices into B * T of what comes before the model's own tokens;
    targets: those tokens."""

    ids: Tensor
    positions: Tensor
    selected: Tensor
    targets: Tensor


def row(rng: random.Random, tokenizer: Tokenizer, length: int, mix: str) -> tuple[list[int], list[bool], list[int]]:
    """One conversation, cut to `length` + 1: ids, whether each is the model's, positions.

    Positions jump at some of the message boundaries, so that short rows also teach long distances.
    """
    talk = data.conversation(rng, mix, length)
    texts, owned = zip(*data.segments(talk.messages, talk.schemas()))
    jumps = rng.random() < 0.4
    ids: list[int] = []
    own: list[bool] = []
    positions: list[int] = []
    position = 0
    for encoded, mine in zip(tokenizer.encode_batch_fast(list(texts), add_special_tokens=False), owned):
        if jumps and rng.random() < 0.1:
            position += int(2 ** rng.uniform(4, 13))
        size = len(encoded.ids)
        ids += encoded.ids
        own += [mine] * size
        positions += range(position, position + size)
        position += size
    short = length + 1 - len(ids)
    if short > 0:
        ids, own = ids + [0] * short, own + [False] * short
        positions += range(position, position + short)
    end = length + 1
    return ids[:end], own[:end], positions[:end]


def make_batch(step: int, rows: Rows, tokenizer: Tokenizer) -> Batch:
    """The batch of a step: it depends on the seed and the step only."""
    made = [
        row(random.Random(f"{SEED}-{step}-{index}"), tokenizer, rows.length, rows.mix)
        for index in range(rows.count)
    ]
    ids = torch.tensor([r[0] for r in made])
    selected = torch.tensor([r[1] for r in made])[:, 1:].flatten().nonzero().flatten()
    positions = torch.tensor([r[2] for r in made])[:, :-1]
    return Batch(ids[:, :-1], positions, selected, ids[:, 1:].flatten()[selected])


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz (Jordan et al., 2024)."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices, those of one shape together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for (rows, columns), params in shapes.items():
                updates = orthogonal(torch.stack([self._momentum(p, group["momentum"]) for p in params]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, update in zip(params, updates):
                    p.add_(update, alpha=-scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        buffer = state.setdefault("buffer", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to g [N, rows, columns], by a quintic iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Trainer:
    """Model, optimisers and the step reached."""

    def __init__(self, work: Path, tokenizer: Tokenizer) -> None:
        torch.manual_seed(SEED)
        self.tokenizer = tokenizer
        self.file = work / "checkpoint.pt"
        self.model = circuit.lay_out(tokenizer.get_vocab())
        named = dict(self.model.named_parameters())
        self.fixed = [(named[n], m, named[n].detach().clone()) for n, m in circuit.fixed(self.model).items()]
        for p, mask, _ in self.fixed:
            p.requires_grad_(not mask.all())
        self.fixed = [fixed for fixed in self.fixed if fixed[0].requires_grad]
        voting = {id(named[n]) for n in circuit.voting(self.model)}
        self.votes = [(value, value.clone()) for p, _, value in self.fixed if id(p) in voting]
        named = {n: p for n, p in named.items() if p.requires_grad}
        matrices = [p for n, p in named.items() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in named.items() if p.dim() == 1 or "embed" in n]
        self.muon = Muon(matrices, MUON_RATE)
        self.adam = torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.97), weight_decay=0.0)
        self.step = 0
        if self.file.exists():
            saved = torch.load(self.file)
            self.step = saved["step"]
            for name in ("model", "muon", "adam"):
                getattr(self, name).load_state_dict(saved[name])

    def save(self) -> None:
        """Write the checkpoint in one piece."""
        state = {name: getattr(self, name).state_dict() for name in ("model", "muon", "adam")}
        torch.save({"step": self.step, **state}, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)

    def set_rate(self, factor: float) -> None:
        """Scale both learning rates."""
        factor *= min(1.0, (self.step + 1) / WARM_UP_STEPS)
        self.muon.param_groups[0]["lr"] = MUON_RATE * factor
        self.adam.param_groups[0]["lr"] = ADAM_RATE * factor

    def set_votes(self, factor: float) -> None:
        """Make the circuit's votes `factor` times as strong as they were laid out."""
        for value, laid_out in self.votes:
            torch.mul(laid_out, factor, out=value)
        self._hold()

    @torch.no_grad()
    def _hold(self) -> None:
        """Put back what training must leave alone."""
        for p, mask, value in self.fixed:
            p.copy_(torch.where(mask, value, p))
        circuit.hold_norm(self.model.embed_tokens.weight)

    def train_step(self, rows: Rows) -> tuple[float, float]:
        """One update; returns the loss and the accuracy on the model's own tokens."""
        batch = make_batch(self.step, rows, self.tokenizer)
        # The weights are float32, what is computed with them bfloat16: with AMX several times as fast.
        rounded = {n: p.bfloat16() for n, p in self.model.named_parameters()}
        logits = functional_call(self.model, rounded, (batch.ids, batch.positions, batch.selected)).float()
        loss = F.cross_entropy(logits, batch.targets)
        loss.backward()
        for p, mask, _ in self.fixed:
            p.grad.masked_fill_(mask, 0.0)
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        self.muon.step()
        self.adam.step()
        self._hold()
        self.model.zero_grad()
        return loss.item(), (logits.argmax(-1) == batch.targets).float().mean().item()

    def run(self, last: int | None) -> None:
        """Train through the stages, from where the checkpoint stands."""
        begin = 0
        for stage in STAGES:
            end = begin + stage.steps
            self.set_votes(stage.votes)
            while begin <= self.step < end and (last is None or self.step < last):
                low, high = stage.rate
                self.set_rate(low + (high - low) * (self.step - begin) / stage.steps)
                self._timed_step(stage.rows[(self.step - begin) % len(stage.rows)])
            begin = end
        self.save()

    def _timed_step(self, rows: Rows) -> None:
        started = time.monotonic()
        loss, right = self.train_step(rows)
        self.step += 1
        if self.step % LOG_STEPS == 0:
            speed = rows.count * rows.length / (time.monotonic() - started)
            print(
                f"{time.strftime('%H:%M:%S')} step {self.step} length {rows.length} loss {loss:.3f} "
                f"right {right:.3f} {speed:.0f} tokens/s",
                flush=True,
            )
        if self.step % SAVE_STEPS == 0:
            self.save()


def export(trainer: Trainer, tokenizer_file: Path, folder: Path) -> None:
    """Write the model folder: f16 weights, config, tokenizer, template, generation config."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{n}": p.detach().half().contiguous() for n, p in trainer.model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    template = (HERE / "chat_template.jinja").read_text()
    eos, pad = trainer.tokenizer.token_to_id("<|im_end|>"), trainer.tokenizer.token_to_id("<|endoftext|>")
    config = trainer.model.c.to_json(eos, pad)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": trainer.model.c.max_position_embeddings,
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "add_bos_token": False, "clean_up_tokenization_spaces": False, "chat_template": template,
    }  # fmt: skip
    # One candidate only: greedy, said in the keys that every loader knows.
    generation = {"do_sample": True, "temperature": 0.1, "top_k": 1, "eos_token_id": [eos, pad], "pad_token_id": pad}
    for name, content in (
        ("config", config),
        ("tokenizer_config", tokenizer_config),
        ("generation_config", generation),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def check() -> None:
    """The trainer's segments must be exactly what the chat template renders."""
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((HERE / "chat_template.jinja").read_text())
    for seed in range(200):
        talk = data.conversation(random.Random(seed), "main", 1024)
        tools = talk.schemas()
        expected = template.render(messages=talk.messages, tools=tools)
        actual = "".join(text for text, _ in data.segments(talk.messages, tools))
        assert actual == expected, f"seed {seed}:\n{actual}\n----\n{expected}"
        for index, message in enumerate(talk.messages):
            if message["role"] == "assistant":
                prompt = template.render(
                    messages=talk.messages[:index],
                    tools=tools,
                    add_generation_prompt=True,
                    enable_thinking="reasoning_content" in message,
                )
                assert expected.startswith(prompt), f"seed {seed}: message {index} does not extend its prompt"
    print("200 conversations: the trainer's text and the template's are the same")


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for tokenizer and checkpoint")
    parser.add_argument("--export", type=Path, help="write the model folder and do not train")
    parser.add_argument("--check", action="store_true", help="compare the trainer's text with the template's")
    parser.add_argument("--threads", type=int, default=2, help="cores to train with")
    parser.add_argument("--last", type=int, help="stop after this step")
    arguments = parser.parse_args()
    if arguments.check:
        return check()
    if arguments.work is None:
        parser.error("--work is needed to train or to export")
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    file = work / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file)) if file.exists() else train_tokenizer(file)
    torch.set_num_threads(arguments.threads)
    trainer = Trainer(work, tokenizer)
    if arguments.export:
        return export(trainer, file, arguments.export)
    trainer.run(arguments.last)


if __name__ == "__main__":
    main()
