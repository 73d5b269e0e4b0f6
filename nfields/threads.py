"""How threads wait: set before PyTorch and Numba are loaded, because they read it only then.

PyTorch and Numba each keep a pool of OpenMP threads. A thread that spins while it waits takes the
core from the other pool's threads, and a training step changes pools dozens of times.
"""

import os


def wait_passively() -> None:
    """Makes idle OpenMP threads sleep; what the user has set in the environment stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
