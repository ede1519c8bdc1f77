"""Trains omlx-tiny from nothing and writes the model folder.

    python train.py --check                          compares the trainer's text with the template's
    python train.py --work /tmp/omlx-tiny-work       trains (resumes from the last checkpoint)
    python train.py --work ... --wide                the second phase, from the end of the first
    python train.py --work ... --wide --export model     writes the model folder
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

import data
import start
import widen
from model import Config, Qwen3

HERE = Path(__file__).parent
SEED = 20261123
VOCABULARY = 4224
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# A capitalised word, a code and a number never take the space before them, so that a value is the
# same tokens in prose, in JSON and in a path: copying it is then token by token.
PRE_TOKENS = r"""'(?:[sdmt]|ll|ve|re)\b| ?\p{Ll}+|\p{Lu}\p{Ll}+|\p{L}|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"""


@dataclass(frozen=True)
class Stage:
    """A part of the training: rows of one length, and the learning rate's factor from end to end."""

    steps: int
    length: int
    rows: int
    mix: str
    rate: tuple[float, float]


# The first phase trains the small model of `start.py`, the second the one that `widen.py` makes of it.
FIRST = (
    Stage(250, 512, 4, "start", (1.0, 1.0)),
    Stage(400, 512, 4, "main", (1.0, 1.0)),
    Stage(220, 512, 4, "close", (1.0, 0.5)),
    Stage(20, 2048, 1, "long", (0.5, 0.4)),
    Stage(10, 4608, 1, "long", (0.4, 0.2)),
    Stage(2500, 512, 4, "close", (0.8, 0.6)),
)
SECOND = (
    Stage(450, 512, 4, "close", (0.9, 0.6)),
    Stage(100, 1024, 2, "calls", (0.8, 0.5)),
    Stage(50, 2048, 2, "long", (0.5, 0.3)),
    Stage(60, 1024, 2, "calls", (0.3, 0.1)),
    Stage(140, 1024, 2, "calls", (0.6, 0.0)),
)
WARM_UP_STEPS = 40
MUON_RATE, ADAM_RATE = 0.012, 0.003
PROMPT_SHARE, PROMPT_WEIGHT = 0.1, 0.1


def train_tokenizer(path: Path) -> Tokenizer:
    """Train the byte-level BPE on generated text and save it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(data.corpus(SEED, 2500), trainer)
    tokenizer.add_tokens(list(MARKUP))
    tokenizer.save(str(path))
    return tokenizer


@dataclass
class Batch:
    """ids, positions: [B, T]; selected: indices into B * T; targets, weights: one per selected."""

    ids: Tensor
    positions: Tensor
    selected: Tensor
    targets: Tensor
    weights: Tensor


def row(rng: random.Random, tokenizer: Tokenizer, stage: Stage) -> tuple[list[int], list[bool], list[int]]:
    """One conversation, cut to the stage's length + 1: ids, whether each is the model's, positions.

    Positions jump at some of the message boundaries, so that short rows also teach long distances.
    """
    talk = data.conversation(rng, stage.mix, stage.length)
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
    short = stage.length + 1 - len(ids)
    if short > 0:
        ids, own = ids + [0] * short, own + [False] * short
        positions += range(position, position + short)
    end = stage.length + 1
    return ids[:end], own[:end], positions[:end]


def make_batch(step: int, stage: Stage, tokenizer: Tokenizer, mine: range, phase: str) -> Batch:
    """The rows `mine` of a step's batch: they depend on the seed, the step and the row only."""
    rows = [row(random.Random(f"{SEED}{phase}-{step}-{index}"), tokenizer, stage) for index in mine]
    ids = torch.tensor([r[0] for r in rows])
    own = torch.tensor([r[1] for r in rows])[:, 1:].flatten()
    generator = torch.Generator().manual_seed(1000 * step + mine.start)
    sampled = torch.rand(own.shape, generator=generator) < PROMPT_SHARE
    selected = (own | sampled).nonzero().flatten()
    return Batch(
        ids[:, :-1],
        torch.tensor([r[2] for r in rows])[:, :-1],
        selected,
        ids[:, 1:].flatten()[selected],
        torch.where(own[selected], 1.0, PROMPT_WEIGHT),
    )


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
                updates = shared_orthogonal(torch.stack([self._momentum(p, group["momentum"]) for p in params]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, update in zip(params, updates):
                    p.add_(update, alpha=-scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        buffer = state.setdefault("buffer", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)


def shared_orthogonal(g: Tensor) -> Tensor:
    """`orthogonal` of g, each worker doing its part of the matrices."""
    if not dist.is_initialized():
        return orthogonal(g)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    updates = torch.zeros_like(g)
    updates[mine] = orthogonal(g[mine])
    dist.all_reduce(updates)
    return updates


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to g [N, rows, columns], by a quintic iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Trainer:
    """Model, optimisers and the step reached, the same in each of `workers` processes."""

    def __init__(self, work: Path, tokenizer: Tokenizer, wide: bool, rank: int = 0, workers: int = 1) -> None:
        torch.manual_seed(SEED)
        self.tokenizer = tokenizer
        self.rank, self.workers = rank, workers
        first = work / "checkpoint.pt"
        self.file = work / "wide.pt" if wide else first
        self.phase = "-wide" if wide else ""
        self.stages = SECOND if wide else FIRST
        self.fixed: dict[str, tuple[Tensor, Tensor]] = {}
        if wide:
            self.model = widen.widen(torch.load(first)["model"], tokenizer.get_vocab())
        else:
            self.model = Qwen3(Config(vocab_size=VOCABULARY + len(MARKUP)))
            start.lay_out(self.model)
        matrices = [p for n, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.dim() == 1 or "embed" in n]
        self.muon = Muon(matrices, MUON_RATE)
        self.adam = torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.97), weight_decay=0.0)
        self.step = 0
        if self.file.exists():
            saved = torch.load(self.file)
            self.step = saved["step"]
            for name in ("model", "muon", "adam"):
                getattr(self, name).load_state_dict(saved[name])
        if wide:
            named = dict(self.model.named_parameters())
            self.fixed = {n: (m, named[n].detach().clone()) for n, m in widen.fixed(self.model).items()}

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

    def train_step(self, stage: Stage) -> tuple[float, float]:
        """One update; returns the loss and the accuracy on the model's own tokens."""
        mine = range(self.rank, stage.rows, self.workers)
        batch = make_batch(self.step, stage, self.tokenizer, mine, self.phase)
        logits = self.model(batch.ids, batch.positions, batch.selected)
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        (losses * batch.weights).sum().backward()
        self.share_gradients(batch.weights.sum())
        named = dict(self.model.named_parameters())
        for name, (mask, _) in self.fixed.items():
            named[name].grad.masked_fill_(mask, 0.0)
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        self.muon.step()
        self.adam.step()
        for name, (mask, value) in self.fixed.items():
            named[name].data = torch.where(mask, value, named[name].data)
        self.model.zero_grad()
        own = batch.weights == 1.0
        right = (logits.argmax(-1) == batch.targets)[own].float().mean()
        return losses[own].mean().item(), right.item()

    def share_gradients(self, weight: Tensor) -> None:
        """Make the gradients those of the mean loss over the rows of all workers."""
        grads = [p.grad for p in self.model.parameters()]
        flat = torch.cat([g.flatten() for g in grads] + [weight.view(1)])
        if self.workers > 1:
            dist.all_reduce(flat)
        for g, summed in zip(grads, flat[:-1].split([g.numel() for g in grads])):
            torch.div(summed.view_as(g), flat[-1], out=g)

    def run(self, last: int | None) -> None:
        """Train through the stages, from where the checkpoint stands."""
        begin = 0
        for stage in self.stages:
            end = begin + stage.steps
            while begin <= self.step < end and (last is None or self.step < last):
                low, high = stage.rate
                self.set_rate(low + (high - low) * (self.step - begin) / stage.steps)
                self._timed_step(stage)
            begin = end
        if self.rank == 0:
            self.save()

    def _timed_step(self, stage: Stage) -> None:
        started = time.monotonic()
        loss, right = self.train_step(stage)
        self.step += 1
        if self.step % 10 == 0 and self.rank == 0:
            speed = stage.rows * stage.length / (time.monotonic() - started)
            print(
                f"{time.strftime('%H:%M:%S')} step {self.step} length {stage.length} loss {loss:.3f} "
                f"right {right:.3f} {speed:.0f} tokens/s",
                flush=True,
            )
        if self.step % 50 == 0 and self.rank == 0:
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


def worker(rank: int, work: Path, workers: int, wide: bool, last: int | None) -> None:
    """One training process of `workers`; each has one thread, so a busy neighbour delays only one."""
    torch.set_num_threads(1)
    meeting = f"file://{work}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    Trainer(work, Tokenizer.from_file(str(work / "tokenizer.json")), wide, rank, workers).run(last)
    dist.destroy_process_group()


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
    parser.add_argument("--workers", type=int, default=2, help="processes to train with")
    parser.add_argument("--wide", action="store_true", help="the second phase, after the first")
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
    if arguments.export:
        return export(Trainer(work, tokenizer, arguments.wide), file, arguments.export)
    (work / "meeting").unlink(missing_ok=True)
    options = (work, arguments.workers, arguments.wide, arguments.last)
    torch.multiprocessing.spawn(worker, options, nprocs=arguments.workers)


if __name__ == "__main__":
    main()
