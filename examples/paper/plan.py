"""What is run: a table of runs, each with an id, in an order in which every run comes after its parent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DATA = ("mnist", "fashion")
GROUPS = ("C4", "C8", "D4")

#: Those with a canonicalizer, the direct method first.
CANONICALIZED = ("equiadapt", "equioptadapt")

#: EquiOptAdapt on moved images, for the groups that interpolate.
MOVED, INTERPOLATED = "moved", ("C8",)


@dataclass(frozen=True)
class Budget:
    """How much of everything one form of the experiments takes.

    Attributes:
        name: the folder of its results and checkpoints.
        train, test: images of each data set.
        seeds: how often everything is repeated.
        classifier, canonicalizer: epochs of the upright classifier, and of a canonicalizer in front of it, frozen.
        tuning: epochs of classifier and canonicalizer together, after that.
        curve_steps: training steps of each contender in the figure of identity metric against time.
        curve_data: the data sets and groups of that figure.
        rounds: how often each method has its turn where they are timed.
    """

    name: str
    train: int
    test: int
    seeds: int
    classifier: int
    canonicalizer: int
    tuning: int
    curve_steps: int
    curve_data: tuple[tuple[str, str], ...]
    rounds: int

    @property
    def quick(self) -> bool:
        """Whether its results show no more than that everything runs."""
        return self != FULL


FULL = Budget("full", 60_000, 10_000, 3, 3, 2, 1, 60, (("mnist", "C4"), ("fashion", "C4")), 9)
QUICK = Budget("quick", 6_000, 1_000, 1, 3, 2, 1, 24, (("mnist", "C4"),), 3)


def state(method: str, tuned: bool) -> str:
    """A method, and whether the classifier is tuned."""
    return f"{method}, {'tuned' if tuned else 'frozen'}"


@dataclass(frozen=True)
class Run:
    """One training, and what is measured after it.

    Attributes:
        method: a key of `methods.METHODS`.
        group: None for the classifier alone, which is measured with every group.
        tuned: whether the classifier is trained too; otherwise it is frozen.
        epochs: of this run, beyond those of its parent.
        parent: the run whose weights it starts from.
    """

    data: str
    method: str
    seed: int
    epochs: int
    group: str | None = None
    tuned: bool = False
    parent: Run | None = None

    @property
    def id(self) -> str:
        parts = (self.data, self.method, self.group, "tuned" if self.tuned else None, f"seed{self.seed}")
        return "-".join(filter(None, parts))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that it is measured with."""
        return GROUPS if self.group is None else (self.group,)


@dataclass(frozen=True)
class Curve:
    """Identity metric against training time, of all contenders one after another."""

    data: str
    group: str
    seed: int
    steps: int

    @property
    def id(self) -> str:
        return f"curve-{self.data}-{self.group}-seed{self.seed}"


@dataclass(frozen=True)
class Times:
    """Times of a training step and of inference, of all methods with one group."""

    group: str
    rounds: int
    data: str = DATA[0]
    seed: int = 0

    @property
    def id(self) -> str:
        return f"times-{self.group}"


def canonicalizers(group: str) -> tuple[str, ...]:
    """The methods with a canonicalizer that are tried with a group."""
    return (*CANONICALIZED, MOVED) if group in INTERPOLATED else CANONICALIZED


def runs(budget: Budget) -> Iterator[Run]:
    """All runs. One upright classifier for each data set and seed serves all methods and groups."""
    for seed in range(budget.seeds):
        for data in DATA:
            upright = Run(data, "vanilla", seed, budget.classifier)
            yield upright
            yield Run(data, "vanilla", seed, budget.tuning, tuned=True, parent=upright)
            for group in GROUPS:
                # As many epochs as a canonicalizer and its tuning take together.
                epochs = budget.canonicalizer + budget.tuning
                yield Run(data, "augmentation", seed, epochs, group, tuned=True, parent=upright)
                for method in canonicalizers(group):
                    frozen = Run(data, method, seed, budget.canonicalizer, group, parent=upright)
                    yield frozen
                    yield Run(data, method, seed, budget.tuning, group, tuned=True, parent=frozen)


def curves(budget: Budget) -> Iterator[Curve]:
    for seed in range(budget.seeds):
        for data, group in budget.curve_data:
            yield Curve(data, group, seed, budget.curve_steps)


def kinds(group: str) -> Iterator[Run]:
    """One run of each method with a group, frozen and tuned, for who wants to time them."""
    for method in ("vanilla", "augmentation", *canonicalizers(group)):
        for tuned in (False, True):
            if tuned or method != "augmentation":
                yield Run(DATA[0], method, 0, 1, group, tuned)


def everything(budget: Budget) -> list[Run | Curve | Times]:
    """What is timed comes last."""
    return [*runs(budget), *curves(budget), *(Times(group, budget.rounds) for group in GROUPS)]
