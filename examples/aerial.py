"""Trees from above, where nothing is upright: a canonicalizer against random turns and against the mean of all outputs.

    python examples/aerial.py [--epochs 8] [--seeds 3] [--threads 2] [--publish]

Is there a tree in the middle of this window of an aerial photograph? Networks are trained on two photographs as they
are, and tested on a third one at eight angles. No prior says which way is up: the loss of the task alone chooses.
"""

import argparse
import os
import time
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two spinning threads crawl where others run, too

import aerial_report
import crops
import data
import published
import torch
import torch.nn.functional as F
from crops import Windows
from torch import Tensor, nn
from tqdm import tqdm

import equifast

BATCH, RATE, CONTRAST = 64, 3e-3, 0.01


class Method(NamedTuple):
    """How a classifier is trained: with random turns of a group, behind a canonicalizer of one, or plainly."""

    name: str
    turns: str | None = None
    canonical: str | None = None
    learned: bool = True
    mean: str | None = None  # the group over which outputs are averaged, in a row of its own


METHODS = (
    Method("plain", mean="C8"),
    Method("random C4 turns", turns="C4"),
    Method("random C8 turns", turns="C8", mean="C8"),
    Method("canonicalizer C4, trained", canonical="C4"),
    Method("canonicalizer C8, trained", canonical="C8"),
    Method("canonicalizer C8, random", canonical="C8", learned=False),
)


class Middle(nn.Module):
    """The middle two thirds of an image: turns about the middle bring nothing from beyond the image into it."""

    def forward(self, x: Tensor) -> Tensor:
        edge = x.shape[-1]
        start = (edge - edge * crops.SEEN // crops.EDGE) // 2
        return x[..., start : edge - start, start : edge - start]


def network(widths: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Strided convolutions with normalization and GELU, the mean over the pixels, and a linear layer."""
    layers: list[nn.Module] = [Middle()]
    for before, width in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))


class Model(nn.Module):
    """A classifier, trained as its method says: images (B, 3, 48, 48) → logits (B, 2)."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.classifier = network((16, 32, 64), 2)
        self.canonicalizer = None
        if method.canonical:
            scorer = network((16, 32), 32)
            group = method.canonical
            self.canonicalizer = equifast.nn.Canonicalizer(scorer, group, vector_size=32, beta=10.0, resize=24)
            self.canonicalizer.requires_grad_(method.learned)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy; behind a canonicalizer also the contrastive loss, which keeps vectors of one orbit apart."""
        if self.method.turns:
            group = equifast.as_group(self.method.turns)
            x = equifast.act(x, torch.randint(group.order, (len(x),)), group=group)
        if self.canonicalizer is None:
            return F.cross_entropy(self.classifier(x), labels)
        form = self.canonicalizer(x)
        loss = F.cross_entropy(self.classifier(form.image), labels)
        return loss + CONTRAST * form.contrastive_loss(normalize=True) if self.method.learned else loss

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x if self.canonicalizer is None else self.canonicalizer(x).image)


def train(model: Model, windows: Windows, epochs: int) -> float:
    """Train on windows as the photographs have them, their first view; returns the seconds of CPU time it took."""
    start, images = time.process_time(), windows.images[0]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * (len(images) // BATCH) + 1)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            loss = model.loss(images[rows], windows.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    return time.process_time() - start


@torch.inference_mode()
def trees(model: Model, images: Tensor, mean: str | None = None) -> Tensor:
    """Probability of a tree (V, N) in each view; ``mean``: of the group over whose orbit outputs are averaged."""
    if mean is None:
        return torch.stack([model(view).softmax(1)[:, 1] for view in images])
    group = equifast.as_group(mean)
    members = torch.stack(
        [trees(model, equifast.orbit(view, group).unflatten(0, (group.order, -1))) for view in images]
    )
    return members.mean(1)


@torch.inference_mode()
def elements(model: Model, images: Tensor) -> Tensor:
    """The elements (V, N) that the canonicalizer chooses in each view."""
    return torch.stack([model.canonicalizer(view).element for view in images])


def leak(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, order: int) -> float:
    """Accuracy in percent of guessing the label by the element alone, as the majority of training windows has it."""
    trees = train.bincount(train_labels.double(), minlength=order)
    guess = 2 * trees > train.bincount(minlength=order)
    return 100 * (guess[test] == test_labels.bool()).double().mean().item()


def measure(probability: Tensor, labels: Tensor) -> dict:
    """Accuracy in percent in each view, and by how much the probability differs between views of one window."""
    accuracy = 100 * ((probability > 0.5) == labels.bool()).double().mean(1)
    spread = [p.amax(0).sub(p.amin(0)).mean().item() for p in (probability[::2], probability)]
    return {"accuracy": [round(a, 2) for a in accuracy.tolist()], "spread": [round(s, 4) for s in spread]}


def choices(model: Model, windows: Windows, test: Windows) -> dict:
    """What the choice of the element says: its shares in percent, as stored and over all turns, and `leak` of both."""
    order, found = model.canonicalizer.group.order, {}
    seen, unseen = elements(model, windows.images), elements(model, test.images)
    any_turn = [torch.randint(len(e), e.shape[1:]) for e in (seen, unseen)]
    turned = [e.gather(0, turn[None])[0] for e, turn in zip((seen, unseen), any_turn, strict=True)]
    for name, a, b in (("stored", seen[0], unseen[0]), ("turned", *turned)):
        shares = 100 * (b if name == "stored" else unseen.flatten()).bincount(minlength=order) / unseen[:1].numel()
        shares = shares if name == "stored" else shares / len(unseen)
        found[name] = [round(share, 2) for share in shares.tolist()]
        found[f"{name}_leak"] = round(leak(a, windows.labels, b, test.labels, order), 2)
    return found


def run(photographs: dict[str, Windows], epochs: int, seeds: int) -> tuple[list[dict], Model]:
    """Train and test every method on every photograph's absence, by every seed; also the last canonicalizer of C8."""
    runs, kept = [], None
    with tqdm(total=seeds * len(photographs) * len(METHODS), ncols=100, desc="training") as bar:
        for seed in range(seeds):
            for name, test in photographs.items():
                windows = crops.together([others for other, others in photographs.items() if other != name])
                for method in METHODS:
                    torch.manual_seed(seed)
                    model = Model(method)
                    about = {"test": name, "seed": seed, "seconds": round(train(model, windows, epochs), 4)}
                    results = {"method": method.name, **about, **measure(trees(model, test.images), test.labels)}
                    if model.canonicalizer is not None:
                        results |= choices(model, windows, test)
                    runs.append(results)
                    if method.mean:
                        means = measure(trees(model, test.images, method.mean), test.labels)
                        runs.append({"method": f"{method.name}, mean of 8 outputs", **about, **means})
                    kept = (
                        model
                        if method.name == "canonicalizer C8, trained" and name == next(iter(photographs))
                        else kept
                    )
                    bar.update()
    return runs, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument(
        "--publish", action="store_true", help="write examples/results and the page of the documentation"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if problem := data.missing("deepforest"):
        raise SystemExit(problem)
    start = time.perf_counter()
    photographs = {p.name: crops.windows(p.pixels, p.crowns) for p in data.aerial()}
    counts = {name: len(windows.labels) // 2 for name, windows in photographs.items()}
    runs, model = run(photographs, options.epochs, options.seeds)
    results = {"trees": counts, "epochs": options.epochs, "threads": options.threads, "runs": runs}
    text = aerial_report.text(results)
    taken = time.perf_counter() - start
    print(f"\n{text}\n\n{data.credits('deepforest')}\nwrote {aerial_report.PICTURE}; {taken:.0f} s after the download")
    aerial_report.draw(results, model.canonicalizer, next(iter(photographs.values())))
    if options.publish:
        published.save("aerial", results)
        published.publish("aerial", text)


if __name__ == "__main__":
    main()
