"""Measures a stored run on its held-out items: metrics, their protocol, pictures."""

import sys

from nfields.cli import messages
from nfields.evaluation import main

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
