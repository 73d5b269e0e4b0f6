"""Batches from the host to a GPU, which does not stop for them."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, in the order of the work there; the host goes on at once.

    Only from pinned memory does a GPU copy by itself: a plain `.to` waits until all is done.
    """
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
