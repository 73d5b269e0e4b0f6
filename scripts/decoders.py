"""Compares rbfnet's Gaussian layer with a ReLU network behind the same encoder."""

import sys

from nfields.benchmark.decoders import main
from nfields.cli import messages

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
