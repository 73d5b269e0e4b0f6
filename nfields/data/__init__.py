"""Data: files in, cameras, pixels and units out; everything in our frame (render/cameras.py)."""

import importlib
from typing import Any

from nfields.errors import DataError


def restore(card: dict[str, Any]) -> Any:
    """The data set that `card()` described, without its files: cameras, names and units only.

    The card names its class; only classes of this package are looked up, so that a card from
    elsewhere cannot run code.
    """
    name = card.get("class")
    if not isinstance(name, str) or not name.startswith("nfields."):
        raise DataError(
            f"the data card names class={name!r}; only classes under nfields. are allowed. "
            "The run folder's data.json is damaged or not one of nfields'."
        )
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
        from_card = found.from_card
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"the data card names class={name!r}, which this version of nfields does not have "
            f"({error}); restore the card with the version that wrote it."
        ) from error
    return from_card(card)
