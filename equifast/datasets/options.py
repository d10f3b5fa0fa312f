"""The options of `equifast canonicalize`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ..allocator import keep_freed_memory
from ..scores import NAMED
from .chooser import Chooser, load

DESCRIPTION = """
Writes each image of IN to OUT as a network prefers it, in the same format: turned and flipped as its EXIF says, then
by an element of the group. OUT/manifest-*.jsonl tells the element and the scores of each image. Started again after a
kill, it does what is missing. Started by torchrun, each process does its share.
"""


def add_network(parser: argparse.ArgumentParser) -> None:
    """Declare the network, what it sees of an image, how it chooses, and where it runs."""
    parser.add_argument(
        "--network",
        required=True,
        metavar="NAME",
        help="module:attribute, a module or what makes it; or a file.pt2; or a model of torchvision, with its weights",
    )
    parser.add_argument("--group", help="such as C4; by default that of the network, if it has one")
    parser.add_argument("--score", choices=sorted(NAMED), help="of a classifier's logits (default: confidence)")
    parser.add_argument("--size", type=int, default=224, help="the network sees the central square in SIZE×SIZE pixels")
    numbers: dict[str, Any] = {"type": float, "nargs": 3, "metavar": ("R", "G", "B")}
    parser.add_argument("--mean", default=(0.0,) * 3, **numbers, help="is subtracted from values in [0, 1]")
    parser.add_argument("--std", default=(1.0,) * 3, **numbers, help="divides them")
    parser.add_argument("--batch-size", type=int, default=32, help="images that the network scores at once")
    parser.add_argument("--device", help="such as cuda (the default if there is one) or cpu")


def add_to(parser: argparse.ArgumentParser) -> None:
    """Declare the options, and what runs with them: ``options.run(options)`` returns the exit status."""
    parser.description = DESCRIPTION
    parser.add_argument("source", metavar="IN", type=Path, help="a folder of images and .tar archives, or an archive")
    parser.add_argument("output", metavar="OUT", type=Path, help="a folder, made if need be")
    add_network(parser)
    parser.add_argument("--workers", type=int, help="processes that decode (default: a core each)")
    parser.add_argument(
        "--network-dtype", choices=("bfloat16", "float16"), help="the network runs under autocast to it"
    )
    parser.set_defaults(run=lambda options: _run(options, parser))


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        from .run import Run, Share
        from .scoring import Views
    except ImportError as error:
        parser.error(f"{error.name} is missing: pip install 'equifast[data]'")
    keep_freed_memory()
    share = Share(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    dtype = getattr(torch, options.network_dtype) if options.network_dtype else None
    try:
        chooser = Chooser(
            load(options.network), options.group, options.score, device=device_of(options), network_dtype=dtype
        )
        run = Run(
            options.source,
            options.output,
            chooser,
            Views(options.size, tuple(options.mean), tuple(options.std)),
            batch_size=options.batch_size,
            workers=_workers() if options.workers is None else options.workers,
            share=share,
            settings={
                "network": options.network,
                "weights": chooser.fingerprint(),
                "group": chooser.group.name,
                "score": chooser.score,
                "size": options.size,
                "mean": list(options.mean),
                "std": list(options.std),
                "network_dtype": options.network_dtype,
            },
        )
        counts = run()
    except ValueError as error:
        parser.error(str(error))
    where = f"; the broken ones are kept as they are, and listed in {options.output}" if counts.broken else ""
    print(
        f"{counts.images} images, {counts.rate:.1f}/s: {counts.turned} turned, {counts.kept} copied, "
        f"{counts.broken} broken{where}",
        file=sys.stderr,
    )
    return 0


def device_of(options: argparse.Namespace) -> torch.device:
    """The device that is named, or else a GPU if there is one."""
    if options.device is not None:
        return torch.device(options.device)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def _workers() -> int:
    """The cores of this process, where all processes of the machine share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)
