"""Neural fields: representations (nfields.model), tasks (nfields.task) and one trainer.

`nfields.compose(["task=image", "model=siren"])` gives a notebook the configuration of a run.
"""

from nfields.config import compose

__all__ = ["compose"]
