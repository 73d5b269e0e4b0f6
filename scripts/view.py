"""Shows a stored run in the browser, live."""

import sys

from nfields.cli import messages
from nfields.viewer.command import main

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
