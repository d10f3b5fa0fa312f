"""What is compared with what, and how good would be good enough: one table."""

from __future__ import annotations

from dataclasses import dataclass

#: The better, by median, of these two is one opponent.
PLAIN = ("eager", "compile")

#: What stands in the place of an opponent where the time itself is judged.
ABSOLUTE = "time"


@dataclass(frozen=True)
class Target:
    """One ratio. ``at_least``: opponent/ours has to reach the number; else ours/opponent has to stay below it.

    Without an opponent the number is of microseconds, which our time has to stay below; for GPUs only.

    ``cpu`` and ``cuda`` are the numbers for each device, None where there is none; ``groups`` and ``labels`` say
    which settings are judged, None for all.
    """

    measure: str
    against: tuple[str, ...]
    cpu: float | None
    cuda: float | None
    at_least: bool = True
    groups: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = ("",)

    def number(self, device: str) -> float | None:
        return getattr(self, device)

    def judges(self, measure: str, group: str, label: str) -> bool:
        return (
            measure == self.measure
            and (self.groups is None or group in self.groups)
            and (self.labels is None or label in self.labels)
        )

    @property
    def opponent(self) -> str:
        return " or ".join(self.against) or ABSOLUTE


TARGETS = (
    Target("canonicalize", ("equiadapt",), 8.0, 10.0),
    Target("canonicalize", PLAIN, 1.7, 2.0),
    Target("canonicalize, outside the network", ("equiadapt",), 15.0, 15.0),
    Target("training step", ("equiadapt",), 5.0, 8.0, groups=("C4",)),
    Target("training step", ("equiadapt",), 3.5, 8.0, groups=("C8", "D4")),
    Target("training step, outside the network", ("equiadapt",), 15.0, 15.0),
    Target("training step, peak memory", ("equiadapt",), 1 / 3, 1 / 3, at_least=False),
    Target("tax", ("ResNet-50",), 0.03, 0.02, at_least=False, groups=("C4",)),
    Target("crop_resize", PLAIN[:1], 2.0, None),
    Target("crop_resize, backward", PLAIN[:1], 3.0, None),
    Target("act, exact", ("limit",), 1.5, 1 / 0.85, at_least=False),
    Target("act, interpolated", ("limit",), 3.0, 1 / 0.70, at_least=False),
    Target("orbit", ("limit",), 1.5, 1 / 0.85, at_least=False, groups=("C4", "D4")),
    Target("orbit_conv2d", PLAIN[:1], 1.2, 3.0, labels=None),
    Target("orbit_conv2d", ("limit",), None, 1 / 0.60, at_least=False, labels=None),
    Target("orbit_conv2d, backward (weight)", PLAIN[:1], 1.2, 2.0, labels=None),
    Target("orbit_scores and losses", PLAIN[:1], 3.0, 5.0, labels=None),
    Target("orbit_scores and losses, forward", (), None, 15.0, at_least=False, labels=("CUDA graph",)),
    Target("orbit_scores and losses, backward", (), None, 15.0, at_least=False, labels=("CUDA graph",)),
    Target("straight-through backward", PLAIN[:1], 4.0, 4.0),
    Target("host overhead", (), None, 20.0, at_least=False, labels=None),
)
