"""The console command `equifast`: what this installation can run, data sets canonicalized, and models diagnosed."""

from __future__ import annotations

import argparse
import sys

from . import __version__, info
from .datasets import options as dataset_options
from .diagnose import arguments as diagnose_arguments


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="equifast", description="Kernels that make image networks equivariant.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    about = commands.add_parser("info", help="what equifast finds here")
    about.add_argument("--json", action="store_true", help="print one JSON object")
    about.set_defaults(run=lambda options: info.main(["--json"] if options.json else []))
    images = commands.add_parser("canonicalize", help="turn the images of a data set as a network prefers them")
    dataset_options.add_to(images)
    model = commands.add_parser("diagnose", help="how a model's answers change when images are turned")
    diagnose_arguments.add_to(model)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
