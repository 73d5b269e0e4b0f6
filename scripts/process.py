"""Finds the cameras of photographs or a video and writes a data set to train on."""

import sys

from nfields.capture.command import main
from nfields.cli import messages

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
