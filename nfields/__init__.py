"""Neural fields: representations (nfields.model), tasks (nfields.task) and one trainer.

`nfields.compose(["task=image", "model=siren"])` gives a notebook the configuration of a run.
"""

from nfields.process import prepare_process

prepare_process()  # before anything loads PyTorch or Numba

from nfields.config import compose  # noqa: E402

__all__ = ["compose"]
