"""Compares runs, or trains some at equal budgets: table, plots, Pareto fronts."""

import sys

from nfields.cli import messages
from nfields.compare.command import main

if __name__ == "__main__":
    with messages():
        main(sys.argv[1:])
