"""The command in a process of its own, which has to import little."""

import os
import sys

import torch

from equifast import command


def serve(arguments: list[str], variables: dict[str, str]) -> None:
    os.setsid()  # the workers that it starts can then be ended with it
    os.environ.update(variables)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(1)
    sys.exit(command.main(arguments))
