"""What a run ran on: versions, processor, memory, GPU; and how much of it training may use."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numba
import torch

from nfields.errors import ConfigError

PACKAGES = ("nfields", "torch", "triton", "numpy", "numba", "safetensors", "hydra-core", "scipy")


def environment() -> dict[str, Any]:
    """Returns versions and hardware, as json can hold them; sizes in bytes."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions,
        "system": platform.platform(),
        "processor": processor(),
        "num_cores": available_cores(),
        "num_threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "cuda": torch.version.cuda,
    }


def available_cores() -> int:
    """Returns the number of cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Returns the name of the processor as its maker writes it, if the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """Returns the size of the main memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory_bytes() -> int | None:
    """Returns the largest resident size this process ever had, in bytes; None if unknown.

    On Linux from /proc: getrusage would report the parent's peak in a child that used less.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def choose_device(name: str) -> torch.device:
    """Returns the device that trainer.device names; "auto" takes a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and name != "cuda" and not name.startswith("cuda:"):
        raise ConfigError(f"trainer.device={name!r} must be auto, cpu, cuda or cuda:0, cuda:1, ..")
    if name != "cpu" and not torch.cuda.is_available():
        reason = (
            "this PyTorch was installed without CUDA; install one with it from pytorch.org"
            if torch.version.cuda is None
            else "no GPU or driver was found (see nvidia-smi)"
        )
        raise ConfigError(f"trainer.device={name}: {reason}; or use trainer.device=cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"trainer.device={name!r} is not a device: {error}") from error
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"trainer.device={name}: there are {torch.cuda.device_count()} GPUs, counted from 0"
        )
    return device


def use_threads(num_threads: int | None) -> int:
    """Returns the number of threads that PyTorch and Numba now both use; None keeps PyTorch's.

    Values too small for normal floats are flushed to zero from here on: they slow every kernel.
    """
    limit = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    if num_threads is not None:
        if not 1 <= num_threads <= limit:
            raise ConfigError(
                f"trainer.threads={num_threads} must be between 1 and {limit} on this machine, "
                "or null for PyTorch's choice"
            )
        torch.set_num_threads(num_threads)
    numba.set_num_threads(min(torch.get_num_threads(), limit))
    torch.set_flush_denormal(True)
    return torch.get_num_threads()
