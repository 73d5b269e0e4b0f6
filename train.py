"""One run: python train.py task=nerf model=rbfnet; nfields/run.py shows it from top to bottom."""

import sys

from nfields.cli import train

if __name__ == "__main__":
    train(sys.argv[1:])
