"""Features of pictures and matches between them, from the pictures alone.

SIFT of scikit-image; of two pictures the mutually nearest features that are clearly nearer than
the next (Lowe's ratio), and of these what agrees with one two-view geometry. No pose is used, so a
wrong one cannot hide.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from skimage.feature import SIFT

from nfields.data.camera_file import View
from nfields.doctor.patient import Pixels, brightness
from nfields.doctor.rays import camera_rays
from nfields.doctor.two_views import robust_essential

# Longest side of the pictures that features are looked for in.
FEATURE_SIZE = 400
MAX_FEATURES = 700  # a picture, the largest ones: they are found again from elsewhere
_RATIO = 0.85
# Matches of a pair agree with one geometry within so many pixels of the small picture.
AGREE_PIXELS = 2.0
_MIN_MATCHES = 16
_MIN_SHARE = 0.5
_FIRST_LOOK = 200  # features that decide which pictures are compared with all of theirs
PAIRS_PER_VIEW = 8
MAX_PER_PAIR = 50  # more matches of one pair say little more


@dataclass(frozen=True)
class Features:
    """Where they are in the pixels of the file, what they look like, how bright they are."""

    pixels: Float[np.ndarray, "n 2"]
    descriptors: Float[np.ndarray, "n 128"]  # unit length
    brightness: Float[np.ndarray, " n"]  # of the surroundings


@dataclass(frozen=True)
class Matches:
    """Matches of all pairs in one list; pair k is (pairs[k, 0], pairs[k, 1])."""

    pairs: Int[np.ndarray, "pairs 2"]
    pair: Int[np.ndarray, " n"]  # of each match
    pixels: Float[np.ndarray, "2 n 2"]  # in the first and the second picture
    brightness: Float[np.ndarray, "2 n"]

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def views(self) -> Int[np.ndarray, "2 n"]:
        """The two views of each match."""
        return self.pairs[self.pair].T


def find_features(pixels: Pixels, view: View) -> Features:
    """The features of a small picture of a view."""
    grey = brightness(pixels).astype(np.float64)
    # Small pictures are enlarged: half of all features are smaller than two pixels.
    sift = SIFT(upsampling=2 if max(grey.shape) <= FEATURE_SIZE else 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sift.detect_and_extract(grey)
    except RuntimeError:  # "SIFT found no features"
        return Features(np.zeros((0, 2)), np.zeros((0, 128)), np.zeros(0))
    largest = np.argsort(-np.asarray(sift.sigmas), kind="stable")
    # A place with two directions counts once for each; copies beyond that do not help.
    largest = largest[:MAX_FEATURES]
    places = np.asarray(sift.positions)[largest]
    descriptors = np.asarray(sift.descriptors)[largest].astype(np.float64)
    # Root SIFT (Arandjelovic and Zisserman 2012): distances of square roots.
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1))
    height, width = grey.shape
    scale = np.array([view.header.width / width, view.header.height / height])
    pixels = (places[:, ::-1] + 0.5) * scale
    return Features(pixels, descriptors, _local_mean(grey, places))


def _local_mean(grey: np.ndarray, places: np.ndarray, radius: int = 3) -> np.ndarray:
    table = np.pad(grey, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    row, column = np.round(places).astype(int).T
    top, bottom = (row - radius).clip(0), (row + radius + 1).clip(max=grey.shape[0])
    left, right = (column - radius).clip(0), (column + radius + 1).clip(max=grey.shape[1])
    total = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return total / np.maximum((bottom - top) * (right - left), 1)


def match(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Int[np.ndarray, "k 2"]:
    """Mutually nearest descriptors (unit length) that are clearly nearer than the second."""
    if len(a) < 2 or len(b) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    likeness = a.astype(np.float32) @ b.astype(np.float32).T
    row = np.arange(len(a))
    best = likeness.argmax(axis=1)
    is_mutual = likeness.argmax(axis=0)[best] == row
    first = likeness[row, best]
    likeness[row, best] = -1
    second = likeness.max(axis=1)
    # Squared distances of unit vectors: 2 - 2 likeness.
    is_clear = (1 - first) < _RATIO**2 * (1 - second)
    chosen = (is_mutual & is_clear).nonzero()[0]
    return np.stack([chosen, best[chosen]], axis=1)


def find_matches(
    views: Sequence[View], chosen: Sequence[int], features: Sequence[Features], seed: int
) -> Matches:
    """Matches between each chosen view and the ones most like it that agree with one geometry."""
    num = len(chosen)
    alike = np.zeros((num, num), dtype=np.int64)
    some = [f.descriptors[:_FIRST_LOOK].astype(np.float32) for f in features]
    for i in range(num):
        for j in range(i + 1, num):
            alike[i, j] = alike[j, i] = len(match(some[i], some[j]))
    wanted = {
        (min(i, int(j)), max(i, int(j)))
        for i in range(num)
        for j in np.argsort(-alike[i], kind="stable")[:PAIRS_PER_VIEW]
        if i != j and alike[i, j] > 0
    }
    random = np.random.default_rng(seed)
    pairs, counts, pixels, bright = [], [], [], []
    for i, j in sorted(wanted):
        k = match(features[i].descriptors, features[j].descriptors)
        if len(k) < _MIN_MATCHES:
            continue
        both = [features[i].pixels[k[:, 0]], features[j].pixels[k[:, 1]]]
        a, b = (
            camera_rays([views[chosen[v]]], np.zeros(len(k), dtype=np.int64), p)
            for v, p in zip((i, j), both, strict=True)
        )
        angle = AGREE_PIXELS * max(small_pixel(views[chosen[i]]), small_pixel(views[chosen[j]]))
        agrees = robust_essential(a, b, angle, random)
        if agrees.sum() < max(_MIN_MATCHES, _MIN_SHARE * len(k)):
            continue
        agrees = agrees.nonzero()[0]
        agrees = np.sort(random.permutation(agrees)[:MAX_PER_PAIR])
        pairs.append((chosen[i], chosen[j]))
        counts.append(len(agrees))
        pixels.append(np.stack([p[agrees] for p in both]))
        bright.append(
            np.stack([features[i].brightness[k[agrees, 0]], features[j].brightness[k[agrees, 1]]])
        )
    if not pairs:
        return Matches(
            np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((2, 0, 2)), np.zeros((2, 0))
        )
    return Matches(
        np.array(pairs), np.repeat(np.arange(len(pairs)), counts),
        np.concatenate(pixels, axis=1), np.concatenate(bright, axis=1),
    )  # fmt: skip


def small_pixel(view: View) -> float:
    """The angle (radians) of 1/400 of the longest side, at the middle of the view."""
    return max(view.header.width, view.header.height) / FEATURE_SIZE / view.focal[0]
