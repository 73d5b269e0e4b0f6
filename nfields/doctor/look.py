"""One look at each picture: what the checks need to know about it, decoded once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from nfields.doctor.features import FEATURE_SIZE, Features, find_features
from nfields.doctor.patient import Patient, Pixels, brightness, shrink

_SHARP_SIZE = 800
_THUMB_SIZE = 24


@dataclass(frozen=True)
class Alpha:
    """Half-covered pixels beside fully covered ones: which kind of alpha their colours show.

    Sums of distances of a colour c under alpha a to its covered neighbour n: |c - n| if straight,
    |c - a n| if premultiplied.
    """

    num: int  # half-covered pixels
    num_brighter: int  # with a channel above alpha, which premultiplied colours cannot have
    num_compared: int
    as_straight: float
    as_premultiplied: float


@dataclass(frozen=True)
class Look:
    """What is known of a picture after looking at it."""

    features: Features
    thumb: UInt8[np.ndarray, "24 24 channels"]
    sharpness: float  # log of the energy of fine detail over that of coarse detail
    alpha: Alpha | None  # of pictures with alpha


def look_at(patient: Patient, chosen: Sequence[int]) -> list[Look]:
    """A look at each chosen view."""

    def one(index: int) -> Look:
        pixels = patient.read(index)
        return Look(
            features=find_features(shrink(pixels, FEATURE_SIZE), patient.views[index]),
            thumb=_thumb(pixels),
            sharpness=sharpness(pixels),
            alpha=alpha_of(pixels) if pixels.shape[2] == 4 else None,
        )

    # One after the other: SIFT is Python for the most part, and two threads would take turns.
    return [one(index) for index in chosen]


def _thumb(pixels: Pixels) -> np.ndarray:
    rows = np.linspace(0, pixels.shape[0], _THUMB_SIZE + 1).astype(int)
    columns = np.linspace(0, pixels.shape[1], _THUMB_SIZE + 1).astype(int)
    table = np.pad(pixels.astype(np.float64), ((1, 0), (1, 0), (0, 0))).cumsum(0).cumsum(1)
    total = np.diff(np.diff(table[rows][:, columns], axis=0), axis=1)
    count = np.outer(np.diff(rows), np.diff(columns))[..., None]
    return (total / np.maximum(count, 1)).astype(np.uint8)


def sharpness(pixels: Pixels) -> float:
    """The log of the energy of the Laplacian over that of the picture at a quarter of its size.

    Blur takes fine detail away before coarse detail; how much of either there is depends on the
    picture, their ratio hardly.
    """
    grey = brightness(shrink(pixels, _SHARP_SIZE))
    coarse = _half(_half(grey))
    if min(coarse.shape) < 8:
        return 0.0
    return float(np.log((_detail(grey) + 1e-10) / (_detail(coarse) + 1e-10)))


def _half(grey: Float[np.ndarray, "h w"]) -> np.ndarray:
    height, width = (size // 2 for size in grey.shape)
    return grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3))


def _detail(grey: Float[np.ndarray, "h w"]) -> float:
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.square(4 * middle - around).mean())


def alpha_of(pixels: UInt8[np.ndarray, "h w 4"]) -> Alpha:
    """How the half-covered pixels of a picture compare with covered neighbours."""
    alpha = pixels[..., 3].astype(int)
    rgb = pixels[..., :3].astype(float)
    is_half = (alpha >= 25) & (alpha <= 230)
    sums, num_compared = np.zeros(2), 0
    inner = is_half[2:-2, 2:-2]
    height, width = inner.shape
    left = inner.copy()
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 2), (0, -2), (2, 0), (-2, 0)):
        there = (slice(2 + dy, 2 + dy + height), slice(2 + dx, 2 + dx + width))
        use = left & (alpha[there] >= 254)
        here, beside = rgb[2:-2, 2:-2][use], rgb[there][use]
        part = alpha[2:-2, 2:-2][use][:, None] / 255
        # Near black both kinds look alike.
        bright = beside.max(axis=1, initial=0) > 40
        sums += [
            np.abs(here - beside)[bright].mean(axis=1).sum(),
            np.abs(here - part * beside)[bright].mean(axis=1).sum(),
        ]
        num_compared += int(bright.sum())
        left &= ~use
    half = rgb[is_half].max(axis=1, initial=0)
    brighter = int((half > alpha[is_half] + 3).sum())
    return Alpha(int(is_half.sum()), brighter, num_compared, float(sums[0]), float(sums[1]))
