"""The command `python -m equifast.diagnose`, which is `equifast diagnose` too: a page about a folder of images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..allocator import keep_freed_memory
from ..datasets import options as dataset_options
from ..datasets import sources
from ..datasets.chooser import load
from ..nn import Canonicalizer
from .measure import diagnose
from .page import text

if TYPE_CHECKING:
    from ..datasets.scoring import Views

DESCRIPTION = """
Runs a classifier on each image of IN in every orientation of a group, alone and behind a canonicalizer, and writes a
page about it: report.md, report.png and report.json in OUT.
"""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Declare the options, and what runs with them: ``options.run(options)`` returns the exit status."""
    parser.description = DESCRIPTION
    parser.add_argument("source", metavar="IN", type=Path, help="a folder of upright images")
    dataset_options.add_network(parser)
    parser.add_argument("--out", type=Path, default=Path("report"), help="a folder, made if need be (default: report)")
    parser.add_argument(
        "--canonicalizer",
        metavar="NAME",
        help="module:attribute, or a folder by save_pretrained (default: the network's score)",
    )
    parser.add_argument("--labels", action="store_true", help="the label of an image is the folder that it is in")
    parser.add_argument(
        "--classes",
        type=Path,
        help="a text file with the name of a class in each line, in the order of the network's outputs (default: the "
        "names of the folders, sorted; or, where these are numbers, the numbers)",
    )
    parser.add_argument("--limit", type=int, help="so many images at most, by chance")
    parser.add_argument("--features", metavar="NAME", help="the module of the network whose outputs are compared")
    parser.add_argument("--rounds", type=int, default=5, help="how often times are taken; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=lambda options: _run(options, parser))


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m equifast.diagnose")
    add_to(parser)
    options = parser.parse_args(arguments)
    return options.run(options)


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        from tqdm import tqdm

        from ..datasets.scoring import Views
    except ImportError as error:
        parser.error(f"{error.name} is missing: pip install 'equifast[data]'")
    keep_freed_memory()
    try:
        device = dataset_options.device_of(options)
        network, canonicalizer = _to(load(options.network), device), _canonicalizer(options.canonicalizer, device)
        items = sources.find(options.source).images
        if not items:
            raise ValueError(f"IN: expected images that are files, found archives alone in {options.source}")
        items = _some(items, options.limit, options.seed)
        views = Views(options.size, tuple(options.mean), tuple(options.std))
        items, images, broken = _read(items, views)
        labels, classes = _labels(items, options.classes) if options.labels else (None, _lines(options.classes))
        found = diagnose(
            network,
            images.to(device),
            None if labels is None else labels.to(device),
            options.group or getattr(canonicalizer, "group", "C4"),
            canonicalizer=canonicalizer,
            score=options.score or "confidence",
            features=options.features,
            classes=classes,
            batch_size=options.batch_size,
            rounds=options.rounds,
            seed=options.seed,
            progress=partial(tqdm, desc="turning", unit="batch", ncols=110),
        )
    except ValueError as error:
        parser.error(str(error))
    found.notes = [*found.notes, *(f"Left out, since it can't be read: {name} ({why})." for name, why in broken)]
    _write(options.out, options, found, [item.name for item in items])
    print(f"{found}\n\nwrote {options.out}/report.md, report.json and report.png")
    return 0


def _write(out: Path, options: argparse.Namespace, found: Any, files: Sequence[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in ("network", "canonicalizer", "size", "mean", "std", "seed")}
    worst = [files[i] for i in found.worst.index.tolist()]
    whole = {"settings": settings, "worst_files": worst, **found.to_dict()}
    (out / "report.json").write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
    found.plot(out / "report.png")
    title = f"# {options.network} under {found.group}"
    shown = f"The rows of the picture are, from above: {', '.join(f'`{name}`' for name in worst)}."
    (out / "report.md").write_text(f"{title}\n\n{text(found)}\n\n![The figures as a picture](report.png)\n\n{shown}\n")


def _to(network: Any, device: torch.device) -> Any:
    return network.to(device) if isinstance(network, nn.Module) else network


def _canonicalizer(name: str | None, device: torch.device) -> Any:
    if name is None:
        return None
    return _to(Canonicalizer.from_pretrained(name) if Path(name).is_dir() else load(name, "--canonicalizer"), device)


def _some(items: list[sources.Item], limit: int | None, seed: int) -> list[sources.Item]:
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise ValueError(f"--limit: expected at least 1, got {limit}")
    chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:limit]
    return [items[i] for i in sorted(chosen.tolist())]


def _read(items: Iterable[sources.Item], views: Views) -> tuple[list[sources.Item], Tensor, list[tuple[str, str]]]:
    """The items that can be read, their images, and the names of the others with the reason."""
    good, images, broken = [], [], []
    for item in items:
        _, found = views[item]
        if isinstance(found, str):
            broken.append((item.name, found))
        else:
            good.append(item)
            images.append(found)
    if not images:
        raise ValueError(f"IN: expected images, of which none can be read; the first: {broken[0][1]}")
    return good, torch.stack(images), broken


def _labels(items: Iterable[sources.Item], path: Path | None) -> tuple[Tensor, list[str] | None]:
    """The class of each image by the folder that it is in, the last of its path; and the names of the classes."""
    folders = [Path(item.name).parent.name for item in items]
    if "" in folders:
        raise ValueError("--labels: expected every image in a folder of its class, found some that are in none")
    classes = _lines(path)
    if classes is None and all(name.isdecimal() for name in folders):
        return torch.tensor([int(name) for name in folders]), None
    names = sorted(set(folders)) if classes is None else classes
    if unknown := sorted(set(folders) - set(names)):
        raise ValueError(f"--classes: expected all folders in {path}, which lacks {', '.join(unknown)}")
    number: Callable[[str], int] = {name: i for i, name in reversed(list(enumerate(names)))}.__getitem__
    return torch.tensor([number(name) for name in folders]), names


def _lines(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(f"--classes: expected a text file, got {path}")
    return path.read_text().splitlines()
