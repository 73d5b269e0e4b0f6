"""Checks and measures everything on a GPU and writes a report; dry_run=true tries it on the CPU."""

import sys

from nfields.benchmark.gpu import main
from nfields.cli import messages

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
