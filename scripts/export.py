"""Makes files from a stored run: a video along a camera path."""

import sys

from nfields.cli import messages
from nfields.export.command import main

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
