"""Neural fields: representations (nfields.model), tasks (nfields.task) and one trainer.

`nfields.compose(["task=image", "model=siren"])` gives a notebook the configuration of a run.
"""

from nfields.threads import bound_spinning

bound_spinning()  # before anything loads PyTorch or Numba

from nfields.config import compose  # noqa: E402

__all__ = ["compose"]
