"""A small Atlas language model learns to write Python's documentation, letter by letter.

    x + AtlasAttention(norm x),  x + MLP(norm x): the only way from one letter to the next is through the memory of the
    Omega rule (Behrouz et al. 2025, 2505.23735, eq. 9, 15-16) and the short convolution before it

Judged by perplexity on topics held out, beside a bigram model; with the memory updates switched off it must get worse.
A needle - a fact hidden among other text - is asked for again at the end of the context.

    python examples/atlas_language_model.py
"""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import click
import torch
from _run import Curve, Line, bar, digest, report, run

from trueness.optimized import metrics, sequences, training
from trueness.optimized.atlas_memory import AtlasAttention

NAME = "atlas_language_model"
LENGTH, BATCH, CONTEXT = 128, 16, 256  # letters in training, sequences a step, letters in judging
WIDTH, LAYERS, HEADS = 64, 2, 4
UNKNOWN = 0


def texts() -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
    """Letters to learn from, letters of the topics held out (every tenth), and the number of every letter."""
    names = sorted(topics)
    learn = "".join(topics[name] for i, name in enumerate(names) if i % 10)
    held = "".join(topics[name] for i, name in enumerate(names) if not i % 10)
    known = {letter: i for i, letter in enumerate(sorted(set(learn)), 1)}
    return encode(learn, known), encode(held, known), known


def encode(text: str, known: dict[str, int]) -> torch.Tensor:
    return torch.tensor([known.get(letter, UNKNOWN) for letter in text])


class Model(torch.nn.Module):
    """Two layers of memory and MLP; ``updates`` switches the memory."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(vocabulary, WIDTH)
        self.memories = torch.nn.ModuleList(AtlasAttention(WIDTH, HEADS) for _ in range(LAYERS))
        self.mlps = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.SiLU(), torch.nn.Linear(3 * WIDTH, WIDTH))
            for _ in range(LAYERS)
        )
        self.norms = torch.nn.ModuleList(torch.nn.RMSNorm(WIDTH) for _ in range(2 * LAYERS + 1))
        self.head = torch.nn.Linear(WIDTH, vocabulary)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for i, (memory, mlp) in enumerate(zip(self.memories, self.mlps, strict=True)):
            x = x + memory(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x))  # type: ignore[no-any-return]

    def updates(self, on: bool) -> None:
        for memory in self.memories:
            memory.updates = on  # type: ignore[assignment]


@torch.no_grad()
def perplexity(net: Model, text: torch.Tensor, title: str) -> float:
    """exp of the mean negative log-likelihood over every letter of ``text`` but those that begin a window."""
    windows = sequences.SlidingWindows(text, CONTEXT)
    batches = [range(i, min(i + 32, len(windows))) for i in range(0, len(windows), 32)]
    progress, move = bar(title, len(batches))
    losses, counts = [], []
    with progress, training.evaluating(net):
        for done, batch in enumerate(batches, 1):
            ids, labels, _ = sequences.collate([windows[i] for i in batch], UNKNOWN)
            loss, count = metrics.token_losses(net(ids[:, :-1]), labels[:, 1:])
            losses.append(loss.double())
            counts.append(count)
            move(done, "")
    return float(metrics.corpus_perplexity(torch.stack(losses), torch.stack(counts)))


def bigram(learn: torch.Tensor, held: torch.Tensor, vocabulary: int) -> float:
    """The perplexity of counted pairs of letters, each count begun at 0.1."""
    counts = torch.full((vocabulary, vocabulary), 0.1, dtype=torch.float64)
    before, after = sequences.shift(learn)
    counts.index_put_((before, after), torch.ones(len(before), dtype=torch.float64), accumulate=True)
    before, after = sequences.shift(held)
    return float(metrics.perplexity(counts.log()[before], after))


@torch.no_grad()
def needle(net: Model, haystack: torch.Tensor, known: dict[str, int]) -> tuple[float, float]:
    """Mean log p of the digit that the hidden fact names, and of the same digit where the fact names another one."""
    fact, question = "\nThe secret number is {}.\n", "\nThe secret number is "
    right, wrong = [], []
    for digit in range(10):
        for depth in (10, 50, 90):
            for hidden, found in ((digit, right), ((digit + 5) % 10, wrong)):
                parts = (encode(fact.format(hidden), known), encode(question, known))
                prompt, _ = metrics.needle_prompt(haystack, *parts, length=CONTEXT, depth=depth)
                place, answer = torch.tensor([len(prompt) - 1]), encode(str(digit), known)
                found.append(float(metrics.needle_score(net(prompt[None]), place, answer)[0]))
    return sum(right) / len(right), sum(wrong) / len(wrong)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("report/examples"), show_default=True)
@click.option("--steps", type=click.IntRange(2), default=1500, show_default=True)
@click.option("--letters", type=click.IntRange(CONTEXT), default=None, help="Judge on so many held-out letters. [all]")
@click.option("--stop", type=int, default=None, help="Leave off after so many steps; the next run goes on from there.")
def main(out: Path, steps: int, letters: int | None, stop: int | None) -> None:
    learn, held, known = texts()
    held = held[:letters]
    windows = sequences.SlidingWindows(learn, LENGTH + 1, overlap=0.5)
    net, curve, generator = Model(len(known) + 1), Curve(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.01)
    warmup = training.WarmupCosine(optimizer, warmup_steps=min(30, steps // 2), total_steps=steps, min_lr_ratio=0.05)
    accumulator = training.GradientAccumulator(optimizer, 1, max_norm=1.0, schedule=warmup)
    objects = {"net": net, "optimizer": optimizer, "warmup": warmup, "accumulator": accumulator, "curve": curve}

    def step(k: int) -> str:
        chosen = torch.randint(len(windows), (BATCH,), generator=generator)
        ids, labels, _ = sequences.collate([windows[int(i)] for i in chosen], UNKNOWN)
        loss = metrics.cross_entropy(net(ids[:, :-1]), labels[:, 1:])
        accumulator.backward(loss, samples=BATCH)
        return f"loss {curve.add(float(loss.detach())):.3f}"

    if not run(NAME, out, objects, steps, step, every=50, generators={"batches": generator}, stop=stop):
        return
    with_memory = perplexity(net, held, "perplexity")
    net.updates(False)
    without = perplexity(net, held, "without memory updates")
    net.updates(True)
    with training.evaluating(net):
        right, wrong = needle(net, held, known)
    report(
        NAME,
        out,
        [
            Line("loss of the last tenth of the steps / of the first", curve.last() / curve.first(), "<", 1.0),
            Line(
                "perplexity of held-out letters / of a bigram model",
                with_memory,
                "<",
                bigram(learn, held, len(known) + 1),
            ),
            Line("the same, memory updates switched off", without, ">", with_memory),
            Line("needle: log p of the hidden digit / of another", right, "", wrong),
        ],
        digest(objects),
    )


if __name__ == "__main__":
    main()
