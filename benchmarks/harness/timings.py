"""What was measured: milliseconds of each contender, round by round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace

#: What nobody can beat. A case may have several, named ``limit: way``, of which `Timings.settle` takes one.
LIMIT = "limit"
PRODUCT = f"{LIMIT}: product"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, q1, q3)


@dataclass(frozen=True)
class Work:
    """What a call can't do without: bytes to and from memory, floating-point operations; and the same of the limit."""

    moved: int = 0
    flops: int = 0
    limit_moved: int = 0
    limit_flops: int = 0


@dataclass
class Timings:
    """Milliseconds per call of each contender, one a round; or why there are none.

    On a GPU ``times`` are cold, and ``warm`` has the others (`cache` explains both). On a CPU there is one kind.
    """

    times: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    work: Work | None = None
    warm: Timings | None = None

    def only(self, tag: str) -> Timings:
        """The contenders named ``name|tag``, by name, and those without a tag."""

        def mine(values: dict) -> dict:
            split = {name: name.partition("|") for name in values}
            return {split[name][0]: values[name] for name in values if split[name][2] in ("", tag)}

        warm = self.warm.only(tag) if self.warm is not None else None
        return Timings(mine(self.times), mine(self.errors), mine(self.notes), self.work, warm)

    def settle(self) -> Timings:
        """One limit in the place of several: the quickest copy, or the product where that takes longer.

        The note names the one that was taken. A copy that failed is no error as long as another ran.
        """
        found = {name: self.times.pop(name) for name in list(self.times) if name.startswith(f"{LIMIT}: ")}
        copies = found.keys() - {PRODUCT}
        if found:
            medians = {name: Spread.of(times).median for name, times in found.items()}
            taken = min(copies or found, key=medians.__getitem__)
            if medians.get(PRODUCT, 0.0) > medians[taken]:
                taken = PRODUCT
            self.times[LIMIT] = found[taken]
            if len(found) > 1:
                self.notes[LIMIT] = taken.removeprefix(f"{LIMIT}: ")
            if self.work is not None:
                unused = {"limit_moved": 0} if taken == PRODUCT else {"limit_flops": 0}
                self.work = replace(self.work, **unused)
        if copies:
            failed = [name for name in self.errors if name.startswith(f"{LIMIT}: ") and name != PRODUCT]
            for name in failed:
                del self.errors[name]
        if self.warm is not None:
            self.warm.settle()
        return self
