"""The canonicalizer of digits that the demo puts before a frozen network: trained once, then read from its folder.

    python examples/trained.py [--steps 400] [--threads 2] [--retrain]

Folders are in .cache/equifast-canonicalizers, as `Canonicalizer.save_pretrained` writes them.
"""

import argparse
import shutil
import time
from pathlib import Path

import data
import mnist
import torch

from equifast.nn import Canonicalizer

FOLDERS = Path(__file__).resolve().parent.parent / ".cache" / "equifast-canonicalizers"


def folder(digits: data.LabelledImages, steps: int) -> Path:
    """Where the canonicalizer is that was trained on these digits for so many steps."""
    return FOLDERS / f"digits-D4-{len(digits.train)}-{steps}"


def digits(found: data.LabelledImages, steps: int, retrain: bool = False) -> tuple[Canonicalizer, str]:
    """A canonicalizer for D4 in eval mode, and how it came to be: trained for some seconds, or read in milliseconds."""
    place, start = folder(found, steps), time.perf_counter()
    if not retrain and (place / "config.json").exists():
        try:
            module = Canonicalizer.from_pretrained(place, network=mnist.small_network())
            return module, f"trained before, read in {1e3 * (time.perf_counter() - start):.1f} ms"
        except ValueError as error:
            print(f"trains anew what is in {place}, since it does not fit any more: {error}")
    module = mnist.canonicalizer("D4")
    mnist.train(module, found.train, steps)
    # The configuration is written last, so that a folder with one is whole.
    shutil.rmtree(place, ignore_errors=True)
    module.save_pretrained(place)
    return module, f"trained on upright ones for {time.perf_counter() - start:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="training steps of 256 digits")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--retrain", action="store_true", help="train it anew, even if it is there")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    found = data.digits()
    said = digits(found, options.steps, options.retrain)[1]
    print(f"{folder(found, options.steps)}: {said}")


if __name__ == "__main__":
    main()
