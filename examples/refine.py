"""Pages and cut-outs put upright to a degree: a search for the best rotation, beside a fine grid of all of them.

    python examples/refine.py [--steps 1000] [--pictures 40] [--threads 2] [--publish]

A small network learns how far a picture is turned from upright: its score is highest there, and falls to all sides. A
search of 6 rounds from C8 then evaluates 20 members of each orbit where a grid as fine, C512, has 512.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import data
import drawn_text
import imagenet
import published
import refine_picture
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import equifast

ARCHIVES = ("tuxpaint-stamps-default",)
PICTURE, DOCUMENTED = Path("pictures/refine.png"), Path(__file__).resolve().parent.parent / "docs" / "refine.png"

EDGE, SEEN = 128, 64  # pixels of a picture, and of what the network sees
GROUP, ROUNDS = "C8", 6
FINER, GRID = "C32", "C512"  # another start of the search, which misses fewer maxima, and the grid of all members
CAMERA = "C3600"  # the angles by which pictures are turned, most of which no search can find exactly
TURNS = 4  # of each picture
SHARP = 20.0  # how narrow the peak of the score is that is learned


def squared(pixels: Tensor) -> Tensor:
    """A picture (3, H, W) in a white square so large that no turn cuts anything off: (1, 3, 128, 128)."""
    height, width = pixels.shape[1:]
    diagonal = math.hypot(height, width)
    # Margins are the same on opposite sides, to the pixel, so the sides are as even or odd as those of the picture.
    x, y = (math.ceil((diagonal - edge) / 2) for edge in (width, height))
    return equifast.crop_resize(F.pad(pixels, (x, x, y, y), value=255.0)[None], size=EDGE)


def pages(number: int, seed: int) -> Tensor:
    """Pages of text, drawn here."""
    return torch.cat([squared(page) for page in drawn_text.pages(number, seed)])


def cut_outs() -> Tensor:
    """All stamps on white, in an order that is the same each time."""
    stamps = data.stamps()
    order = torch.randperm(len(stamps), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.cat([squared(imagenet.on_white(stamps[i].pixels, EDGE)) for i in order])


def shrink(images: Tensor) -> Tensor:
    """What the network sees: (N, 3, 64, 64), from -1 to 1."""
    return equifast.crop_resize(images, size=SEEN) / 127.5 - 1


def target(angle: Tensor) -> Tensor:
    """The score to learn of a picture that is so far from upright, in radians: a sharp maximum on a broad one."""
    return (angle.cos() + (SHARP * (angle.cos() - 1)).exp()) / 2


def turned(images: Tensor, group: str, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The images turned by those elements, and their angles in radians."""
    return equifast.act(images, ids, group=group), ids * (2 * torch.pi / equifast.as_group(group).order)


def trained(images: Tensor, steps: int, batch: int = 32) -> equifast.nn.Canonicalizer:
    """A canonicalizer whose score of a member is `target` of its angle, fitted to upright images."""
    torch.manual_seed(0)
    network = equifast.nn.ConvNetwork((3, SEEN, SEEN), out_channels=16, kernel_size=5, num_layers=3, out_vector_size=32)
    network.final_fc[1].p = 0.0  # dropout would blur the peak
    module = equifast.nn.Canonicalizer(network, GROUP, beta=100.0, preprocess=shrink, refine=ROUNDS)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps + 1)
    module.train()
    for _ in tqdm(range(steps), desc="training", ncols=100, leave=False):
        upright = images[torch.randint(len(images), (batch,))]
        seen, first = turned(upright, CAMERA, torch.randint(3600, (batch,)))
        # Members are turned after they were shrunk. Half of them are turned back nearly upright, where the peak is.
        back = torch.randn(batch) * 0.2 - first
        near = (back * (3600 / (2 * torch.pi))).round().long() % 3600
        ids = torch.where(torch.rand(batch) < 0.5, near, torch.randint(3600, (batch,)))
        rows, second = turned(shrink(seen), CAMERA, ids)
        scores = F.cosine_similarity(network(rows), module.reference, dim=1)
        loss = F.mse_loss(scores, target(first + second))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def degrees(form: equifast.CanonicalForm) -> Tensor:
    """The angle of each image that was found, in degrees."""
    return form.element * (360 / form.group.order)


def apart(angles: Tensor) -> Tensor:
    """How far angles in degrees are from 0 on the circle."""
    return ((angles + 180) % 360 - 180).abs()


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """The result of a call, and the seconds that processors worked for it."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


@torch.inference_mode()
def run(module: equifast.nn.Canonicalizer, images: Tensor, rounds: int, group: str = GROUP) -> dict:
    """One row: how far turned pictures come back from one another, and what it costs."""
    count = len(images)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3600, (TURNS * count,), generator=generator)
    x, angles = turned(images.repeat(TURNS, 1, 1, 1), CAMERA, ids)
    searcher = equifast.nn.Canonicalizer(
        module.network, group, reference=module.reference, beta=module.beta, preprocess=shrink, refine=rounds
    ).eval()
    home = degrees(searcher(images)).repeat(TURNS)
    form, seconds = timed(lambda: searcher(x))
    off = apart(degrees(form) - angles.rad2deg() - home)
    step = 360 / form.group.order
    return {
        "group": str(form.group),
        "rounds": rounds,
        "step": step,
        "evaluated": int(form.activations.isfinite().sum(1)[0]),
        "ms": round(1e3 * seconds / len(x), 2),
        "median": round(off.median().item(), 2),
        "ninety": round(off.quantile(0.9).item(), 2),
        "within": round(100 * (off <= step).double().mean().item(), 1),
        "two": round(100 * (off <= 2 * step).double().mean().item(), 1),
        "lost": round(100 * (off > 10).double().mean().item(), 1),
        "upright": round(apart(degrees(form) - angles.rad2deg()).median().item(), 2),
        "element": form.element.tolist(),
    }


def measured(name: str, module: equifast.nn.Canonicalizer, images: Tensor) -> list[dict]:
    """A row for some numbers of rounds, and one for the fine grid, and how often searches to its step agree with it."""
    rows = [run(module, images, rounds) for rounds in (0, 2, 4, ROUNDS)]
    rows.append(run(module, images, ROUNDS - 2, group=FINER))
    rows.append(run(module, images, 0, group=GRID))
    grid = rows[-1]
    for row in rows:
        if row["rounds"] and row["group"] == GRID:
            steps = apart(
                torch.tensor([a - b for a, b in zip(row["element"], grid["element"], strict=True)]) * row["step"]
            )
            shares = [(steps <= most * row["step"]).double().mean().item() for most in (0, 1.5)]
            row["same"], row["near"] = (round(100 * share, 1) for share in shares)
    for row in rows:
        row["pictures"], row["from"] = name, equifast.as_group(row["group"]).n >> row["rounds"]
        del row["element"]
    return rows


def text(results: dict) -> str:
    head = ["", "rounds", "step", "members", "ms", "median", "90 %", "within a step", "within two", "beyond 10°"]
    rows, said = [], []
    for row in results["runs"]:
        way = f"{row['pictures']}, from C{row['from']}"
        figures = [f"{row['step']:.1f}°", str(row["evaluated"]), f"{row['ms']:.1f}"]
        figures += [f"{row['median']:.2f}°", f"{row['ninety']:.2f}°"]
        figures += [f"{row[key]:.1f} %" for key in ("within", "two", "lost")]
        rows.append([way, str(row["rounds"]), *figures])
        if "same" in row:
            grid = next(r for r in results["runs"] if r["pictures"] == row["pictures"] and f"C{r['from']}" == GRID)
            said.append(
                f"* {way}: the search finds the element of the grid for {row['same']:.1f} % of the views, "
                f"and one at most a step from it for {row['near']:.1f} %, in 1/{grid['ms'] / row['ms']:.0f} of the "
                f"time. The median view is {row['upright']:.1f}° from upright."
            )
    ending = (
        f"Each of {results['pictures']} pictures of either kind was turned {TURNS} times by angles in tenths of a "
        "degree. Median and 90 %: how far a picture and its turned copy are apart after both were put upright. ms: CPU "
        f"time of an image, {results['threads']} threads. The pictures aren't those of training."
    )
    return "\n\n".join([published.table(head, rows), "\n".join(said), ending])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--publish", action="store_true", help="write examples/results and the documentation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kinds = {"pages": (pages(200, seed=1), pages(options.pictures, seed=2))}
    if problem := data.missing(*ARCHIVES):
        print(f"Cut-outs are left out. {problem}")
    else:
        stamps = cut_outs()
        kinds["cut-outs"] = stamps[options.pictures :], stamps[: options.pictures]
    runs, modules = [], {}
    for name, (train, test) in kinds.items():
        modules[name] = trained(train, options.steps)
        runs += measured(name, modules[name], test)
    results = {"pictures": options.pictures, "threads": options.threads, "steps": options.steps, "runs": runs}
    x, _ = turned(kinds["pages"][1][:4], CAMERA, torch.tensor([370, 1480, 2200, 3310]))
    for path in [PICTURE, DOCUMENTED] if options.publish else [PICTURE]:
        refine_picture.draw(path, modules["pages"], x)
    print(f"{text(results)}\n\n{data.credits(*ARCHIVES)}\nwrote {PICTURE}")
    if options.publish:
        published.save("refine", results)
        published.publish("refine", text(results))


if __name__ == "__main__":
    main()
