"""Is MobileNetV2 rotation-proof, and what would canonicalization change? `equifast.diagnose` on real pictures.

    python examples/diagnose.py [--threads 2] [--rounds 3] [--publish]

The pictures are those of examples/gate.py: cut-outs that are of a class of ImageNet, and photographs.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import data
import gate
import imagenet
import published
import torch
from tqdm import tqdm

import equifast
from equifast import Diagnosis

ROOT = Path(__file__).resolve().parent.parent
PICTURE, DOCUMENTED, PAGE = Path("pictures/diagnose.png"), ROOT / "docs" / "diagnose.png", ROOT / "docs" / "diagnose.md"


def without_images(found: Diagnosis) -> Diagnosis:
    """The same diagnosis without the pixels of others, whose licences forbid to publish them here."""
    worst = found.worst
    none = {field.name: getattr(worst, field.name)[:0] for field in dataclasses.fields(worst)}
    return dataclasses.replace(found, worst=type(worst)(**none))


def kept(found: Diagnosis, threads: int) -> dict:
    """What `published.save` keeps: a line for each turn, and the rest of the diagnosis."""
    figures = json.loads(json.dumps(found.to_dict()))
    runs = [
        {"turn": turn, **{when: {name: _at(figures[when][name], e) for name in figures[when]} for when in VIEWS}}
        for e, turn in enumerate(figures["elements"])
    ]
    rest = {name: value for name, value in figures.items() if name not in (*VIEWS, "worst", "classes")}
    return {"threads": threads, **rest, "runs": runs}


VIEWS = ("before", "after")


def _at(values: dict | None, element: int) -> float | None:
    return None if values is None else round(values["mean"][element], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--rounds", type=int, default=3, help="how often times are taken; 0 on a busy machine")
    parser.add_argument("--publish", action="store_true", help="write examples/results and the documentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if problem := data.missing(*gate.ARCHIVES):
        raise SystemExit(problem)
    build, size = imagenet.NETWORKS["MobileNetV2"]
    names = data.imagenet()
    cuts, photos = imagenet.cut_outs(size, data.stamps(), names), imagenet.photographs(size)
    known = cuts.right.any(1)
    found = equifast.diagnose(
        build(),
        torch.cat([cuts.images[known], photos.images]),
        torch.cat([cuts.right[known], photos.right]),
        "C4",
        classes=[of_class[0] for of_class in names],
        batch_size=8,
        rounds=options.rounds,
        progress=lambda parts: tqdm(parts, desc="turning", ncols=100),
    )
    found.plot(PICTURE)
    print(f"{found}\n\n{data.credits(*gate.ARCHIVES)}\nwrote {PICTURE}")
    if options.publish:
        without_images(found).plot(DOCUMENTED)
        published.save("diagnose", kept(found, options.threads))
        published.publish("diagnose", str(found), PAGE)


if __name__ == "__main__":
    main()
