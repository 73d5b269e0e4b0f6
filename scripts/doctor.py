"""Checks posed images before training, says what is wrong and writes a mended data set."""

import sys

from nfields.cli import messages
from nfields.doctor.command import main

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
