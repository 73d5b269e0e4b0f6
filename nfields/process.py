"""Settings of the process that must be made before PyTorch and Numba load; what the user set stays.

Spinning. PyTorch and Numba each keep a pool of OpenMP threads, and a training step changes pools
dozens of times. Sleeping at once makes every change a wake-up: 39.8 ms a step (chair, two cores)
against 28.5 to 30.1 with the default, which spins for long. The bound below keeps the speed (30.4
ms) and gives the core back within tens of microseconds, which matters where other programs run.

Memory. A step frees and takes the same tens of megabytes again. Left alone, the C library gives
them back to the system each time and the next step pays a page fault for every 4 KB: a step of a
256-wide network in torch.nn takes 376 ms of processor time with the defaults, 340 with freed memory
kept, 327 with huge pages too (one core, medians of 8). At most KEPT_BYTES stay unused.
"""

import ctypes
import os

KEPT_BYTES = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library


def prepare_process() -> None:
    """Bounds the spinning of idle threads and lets the process keep the memory it frees."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch: huge pages for large tensors
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not the GNU C library
    mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES // 4)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
