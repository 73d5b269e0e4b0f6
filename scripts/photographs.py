"""Measures what each option for photographs buys."""

import sys

from nfields.benchmark.photographs import main
from nfields.cli import messages

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
