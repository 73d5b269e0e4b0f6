"""What stored values mean: numbers to be fitted, or classes to be told apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from nfields.data.sphere_places import StoredValues
from nfields.errors import ConfigError, DataError

Kind = Literal["regression", "classification"]
Code = int | float | str | bool
Classes = Mapping[str, list[Code] | Code]
MAX_CLASSES = 64  # whole numbers of more values are measurements, not codes; classes at most 1024
_LIMIT = 1024


@dataclass(frozen=True)
class Meaning:
    """Values (n, c) in the user's units, or labels (n) with -1 where there is none."""

    kind: Kind
    values: Float[np.ndarray, "n c"] | Int[np.ndarray, " n"]
    is_valid: Bool[np.ndarray, " n"]
    class_names: list[str]
    notes: list[str]


def meaning(
    stored: StoredValues, kind: Literal["auto", "regression", "classification"], classes: Classes
) -> Meaning:
    """The values of a file as `kind`; auto: classes for truths, texts and few whole numbers."""
    values = stored.values
    if values.dtype.kind not in "biufU":
        raise DataError(
            f"{stored.name} holds {values.dtype}; allowed are numbers, truths and texts."
        )
    chosen = kind if kind != "auto" else _kind(stored, classes)
    num = len(values)
    is_missing = stored.is_missing
    if values.dtype.kind == "f":
        is_missing = is_missing | ~np.isfinite(values).all(axis=1)
    notes = []
    if is_missing.any():
        share = is_missing.sum() / num
        notes.append(
            f"{stored.name}: {is_missing.sum():,} of {num:,} values ({share:.1%}) are missing and "
            "left out"
        )
    if is_missing.all():
        raise DataError(
            f"all {num:,} values of {stored.name} are missing, NaN or masked; at least one must "
            "be there. Choose another variable or time: data.variable, data.select."
        )
    if chosen == "regression":
        if classes:
            raise ConfigError(
                "data.classes has no effect with data.kind=regression; leave it empty ({}), or "
                "set data.kind=classification"
            )
        if values.dtype.kind == "U":
            raise DataError(
                f"{stored.name} holds texts; data.kind=regression needs numbers. Set "
                "data.kind=classification."
            )
        numbers = values if values.dtype.kind == "f" else values.astype(np.float64)
        return Meaning("regression", numbers, ~is_missing, [], notes)
    if values.shape[1] != 1:
        raise DataError(
            f"{stored.name} has {values.shape[1]} channels; classes need one value a point. Set "
            "data.kind=regression."
        )
    labels, names, more = _labels(values[:, 0], is_missing, classes, stored.name)
    return Meaning("classification", labels, labels >= 0, names, notes + more)


def _kind(stored: StoredValues, classes: Classes) -> Kind:
    if classes:
        return "classification"
    if stored.is_picture or stored.values.shape[1] > 1 or stored.values.dtype.kind == "f":
        return "regression"
    if stored.values.dtype.kind in "bU":
        return "classification"
    _, code_index = _coded(stored.values[:, 0])
    num_codes = np.count_nonzero(np.bincount(code_index[~stored.is_missing]))
    return "classification" if num_codes <= MAX_CLASSES else "regression"


def _coded(
    values: Shaped[np.ndarray, " n"],
) -> tuple[Shaped[np.ndarray, " k"], Int[np.ndarray, " n"]]:
    """Rising codes, which need not all occur, and the number of each value's code."""
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low <= 1 << 16:  # nine million bytes take 20 ms so, and 2 s to sort
            return np.arange(low, high + 1), values.astype(np.int64) - low
    codes, code_index = np.unique(values, return_inverse=True)
    return codes, code_index.reshape(values.shape)


def _labels(
    values: Shaped[np.ndarray, " n"],
    is_missing: Bool[np.ndarray, " n"],
    classes: Classes,
    name: str,
) -> tuple[Int[np.ndarray, " n"], list[str], list[str]]:
    """Labels from 0, -1 where there is none; names of the classes; what was left out."""
    codes, code_index = _coded(values)
    count = np.bincount(code_index[~is_missing], minlength=len(codes))
    texts = [f"{code:g}" if codes.dtype.kind == "f" else str(code) for code in codes.tolist()]
    if not classes:
        seen = np.flatnonzero(count)
        if len(seen) > _LIMIT:
            raise DataError(
                f"{name} has {len(seen):,} different values, which are at most {_LIMIT} classes. "
                "Set data.kind=regression, or group them with data.classes."
            )
        table = np.full(len(codes), -1)
        table[seen] = np.arange(len(seen))
        labels = np.where(is_missing, -1, table[code_index])
        return labels, [texts[k] for k in seen], []
    table = np.full(len(codes), -1)
    owner: dict[int, str] = {}
    for label, (class_name, members) in enumerate(classes.items()):
        several = members if isinstance(members, list | tuple) else [members]
        found = [k for member in several for k in _matches(codes, texts, member)]
        for k in found:
            if k in owner:
                raise ConfigError(
                    f"data.classes: {texts[k]} is in {owner[k]} and {class_name}; each value "
                    "may be in one class"
                )
            owner[k] = class_name
        if not found or count[found].sum() == 0:
            raise DataError(
                f"data.classes: no point of {name} is in the class {class_name} ({members}); its "
                f"values are {', '.join(t for t, c in zip(texts, count, strict=True) if c)[:200]}."
            )
        table[found] = label
    labels = np.where(is_missing, -1, table[code_index])
    left_out = int(((labels < 0) & ~is_missing).sum())
    others = ", ".join(texts[k] for k in range(len(codes)) if table[k] < 0 and count[k])[:100]
    notes = [f"{name}: {left_out:,} values ({others}) are in none of data.classes and left out"]
    return labels, [str(key) for key in classes], notes if left_out else []


def _matches(codes: Shaped[np.ndarray, " k"], texts: list[str], member: Code) -> list[int]:
    """The numbers of the codes that a member of a class means: equal, or of the same text."""
    if codes.dtype.kind == "U" or isinstance(member, str):
        return [k for k, text in enumerate(texts) if text == str(member)]
    return np.flatnonzero(codes == member).tolist()
