"""Time per sample of a hash-grid radiance field's training step that bytes and flops alone allow.

    python -m nfields.benchmark.roofline      prints the tables of docs/roofline.md

Every part of the step takes max(bytes / bandwidth, flops / peak), and the parts follow one another.
The traffic of the grid depends on caches, so there are two answers:

    cached     the table is read, and its gradient written, once a step
    scattered  every corner of a hashed level is a sector of its own in memory, and its gradient a
               read and a write of one; dense levels stay in the cache

Launches, occupancy-grid updates, conflicts of atomics and samples that are marched but not trained
are left out, so a measurement below `cached` shows an error here.
"""

from dataclasses import dataclass

SECTOR = 32  # bytes that a GPU reads at least
PUBLISHED_STEPS, PUBLISHED_SECONDS, PUBLISHED_CARD = 35_000, 263.0, "TITAN RTX"


@dataclass(frozen=True)
class Card:
    """Published limits: bytes a second; flops a second in fp32, and of dense fp16 tensor cores."""

    bandwidth: float
    fp32: float
    fp16: float
    source: str


# fp16 with fp32 accumulation and without sparsity.
CARDS = {
    "A100": Card(2.039e12, 19.5e12, 312e12, "NVIDIA A100 80GB SXM data sheet"),
    "H100": Card(3.35e12, 67e12, 989e12, "NVIDIA H100 SXM data sheet"),
    "RTX 4090": Card(1.008e12, 82.6e12, 165.2e12, "NVIDIA Ada GPU architecture white paper"),
    "TITAN RTX": Card(0.672e12, 16.3e12, 130.5e12, "NVIDIA Turing: Quadro RTX 8000, same chip"),
}


@dataclass(frozen=True)
class Step:
    """A training step; `hidden` and `macs` are units and weights of the networks' layers."""

    samples: int
    entries: int  # of the whole table
    levels: int
    hashed_levels: int
    features: int  # a level
    macs: int
    hidden: int
    value_bytes: int  # of table and activations: 2 for fp16, 4 for fp32


# instant-ngp's paper: 16 levels of 2 features, 2^19 entries, networks 32-64-16 and 32-64-64-16.
NGP = Step(
    samples=2**18, entries=12_196_240 // 2, levels=16, hashed_levels=11, features=2,
    macs=32 * 64 + 64 * 16 + 32 * 64 + 64 * 64 + 64 * 16, hidden=3 * 64, value_bytes=2,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Bytes and flops a sample of one part of the step."""

    name: str
    cached: float | int
    scattered: float | int
    flops: float | int


def parts(step: Step) -> list[Part]:
    """The step's parts, per sample."""
    values = step.entries * step.features / step.samples
    size = step.value_bytes
    encoded = step.levels * step.features * size
    corners = 8 * step.hashed_levels * -(-step.features * size // SECTOR) * SECTOR
    point = 12
    interpolation = 8 * step.levels * step.features * 2
    hidden = step.hidden * size
    return [
        Part("grid, forward", values * size + point + encoded, corners + point + encoded,
             interpolation),
        # The gradient table is zeroed first.
        Part("grid, backward", 2 * values * size + point + encoded,
             values * size + 2 * corners + point + encoded, interpolation),
        # Features in, hidden layers out; back: hidden in, gradients of them and of features out;
        # weights: hidden, gradients and features in.
        Part("networks", 3 * encoded + 5 * hidden, 3 * encoded + 5 * hidden, 3 * 2 * step.macs),
        # Points, directions, distances out; density, colour, distances in, twice; gradients out.
        Part("march and composite", 32 + 2 * 24 + 16, 32 + 2 * 24 + 16, 200),
        # Weights and two moments in fp32, read and written; gradient read, working copy written.
        Part("Adam", values * (24 + 2 * size), values * (24 + 2 * size), values * 15),
    ]  # fmt: skip


def nanoseconds(step: Step, card: Card) -> tuple[float, float]:
    """Time per sample: cached and scattered."""
    totals = [0.0, 0.0]
    for part in parts(step):
        peak = card.fp16 if part.name == "networks" and step.value_bytes == 2 else card.fp32
        for k, size in enumerate((part.cached, part.scattered)):
            totals[k] += 1e9 * max(size / card.bandwidth, part.flops / peak)
    return totals[0], totals[1]


def published_nanoseconds() -> float:
    """instant-ngp's: all seconds of a training over all samples it asks for."""
    return 1e9 * PUBLISHED_SECONDS / (PUBLISHED_STEPS * NGP.samples)


def find_card(name: str) -> Card | None:
    """The card that a device's name, such as NVIDIA H100 80GB HBM3, speaks of."""
    return next((card for key, card in CARDS.items() if key in name), None)


def tables(step: Step = NGP) -> str:
    """The arithmetic as markdown."""
    lines = ["| part | bytes, cached | bytes, scattered | flops |", "|---|---|---|---|"]
    lines += [
        f"| {p.name} | {p.cached:,.0f} | {p.scattered:,.0f} | {p.flops:,.0f} |" for p in parts(step)
    ]
    lines.append(
        f"| sum | {sum(p.cached for p in parts(step)):,.0f} | "
        f"{sum(p.scattered for p in parts(step)):,.0f} | {sum(p.flops for p in parts(step)):,.0f} |"
    )
    lines += [
        "",
        "| card | GB/s | fp32, Tflop/s | fp16, Tflop/s | cached, ns | scattered, ns | limits |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, card in CARDS.items():
        cached, scattered = nanoseconds(step, card)
        lines.append(
            f"| {name} | {card.bandwidth / 1e9:,.0f} | {card.fp32 / 1e12:.1f} | "
            f"{card.fp16 / 1e12:.1f} | {cached:.1f} | {scattered:.1f} | {card.source} |"
        )
    known, (cached, scattered) = published_nanoseconds(), nanoseconds(NGP, CARDS[PUBLISHED_CARD])
    lines += [
        "",
        f"instant-ngp on a {PUBLISHED_CARD}: {PUBLISHED_SECONDS:.0f} s / ({PUBLISHED_STEPS:,} "
        f"steps x {NGP.samples:,} samples) = {known:.1f} ns a sample, {known / cached:.1f} times "
        f"`cached` and {known / scattered:.1f} times `scattered`.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
