"""Shows how a model learns: spectrum, tangent kernel, throughput, gradient check."""

import sys

from nfields.cli import messages
from nfields.diagnose.command import main

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
