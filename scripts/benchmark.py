"""Measures what the kernels buy: ratios to the PyTorch reference, medians of one run."""

import sys

from nfields.benchmark.kernels import main
from nfields.cli import messages

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
