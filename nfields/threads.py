"""How long threads spin while they wait; set before PyTorch and Numba load, which read it once.

PyTorch and Numba each keep a pool of OpenMP threads, and a training step changes pools dozens of
times. Sleeping at once makes every change a wake-up: 39.8 ms a step (chair, two cores) against 28.5
to 30.1 with the default, which spins for long. The bound below keeps the speed (30.4 ms) and gives
the core back within tens of microseconds, which matters where other programs run beside.
"""

import os


def bound_spinning() -> None:
    """Bounds the spinning of idle OpenMP threads; what the user has set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
