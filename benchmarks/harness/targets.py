"""What is compared with what, and how good would be good enough: one table."""

from __future__ import annotations

from dataclasses import dataclass

from .engines import FREEZING
from .floor import FLOOR
from .measure import EXPORTED, OPENVINO

#: The best, by median, of these is one opponent: PyTorch as it is, and all that runs a trained network.
PLAIN = ("eager", "compile")
INFERENCE = (*PLAIN, FREEZING, *EXPORTED)

#: Loops that rotate each image by its own angle, in the packages that people do this with.
LOOPS = ("eager", "kornia", "torchvision")

#: What stands in the place of an opponent where the time itself is judged.
ABSOLUTE = "time"


@dataclass(frozen=True)
class Target:
    """One ratio. ``at_least``: opponent/ours has to reach the number; else ours/opponent has to stay below it.

    Without an opponent the number is of microseconds, which our time has to stay below; for GPUs only.

    ``cpu`` and ``cuda`` are the numbers for each device, None where there is none; ``groups`` and ``labels`` say
    which settings are judged, None for all. ``wish`` is where a CPU should get after the target: it judges nothing.
    """

    measure: str
    against: tuple[str, ...]
    cpu: float | None
    cuda: float | None
    at_least: bool = True
    groups: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = ("",)
    wish: float | None = None

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


ANGLE, STRAIGHT_THROUGH = ("angle",), ("straight_through",)

TARGETS = (
    Target("canonicalize", ("equiadapt",), 10.0, 10.0),
    Target("canonicalize", INFERENCE, 1.7, None),
    Target("canonicalize", PLAIN, None, 2.0),
    Target("canonicalize", (FLOOR,), 2.0, None, at_least=False, wish=1.3),
    Target("canonicalize, outside the network", ("equiadapt",), 15.0, 15.0),
    Target("images to vectors", INFERENCE, 1.5, None, wish=1.7),
    Target("images to vectors", (OPENVINO,), 1.2, None, labels=("inside in bfloat16",)),
    Target("training step", ("equiadapt",), 6.0, 8.0, groups=("C4",), labels=ANGLE),
    Target("training step", ("equiadapt",), 5.0, 8.0, groups=("C8",), labels=ANGLE),
    Target("training step", ("equiadapt",), 8.0, 8.0, groups=("D4",), labels=ANGLE),
    Target("training step", ("equiadapt",), 7.0, 8.0, groups=("C4",), labels=STRAIGHT_THROUGH),
    Target("training step", ("equiadapt",), 6.0, 8.0, groups=("C8",), labels=STRAIGHT_THROUGH),
    Target("training step", ("equiadapt",), 9.0, 8.0, groups=("D4",), labels=STRAIGHT_THROUGH),
    Target("training step, outside the network", ("equiadapt",), 15.0, 15.0, labels=STRAIGHT_THROUGH),
    Target("training step, peak memory", ("equiadapt",), 1 / 3, 1 / 3, at_least=False),
    Target("direct method", ("equiadapt",), 3.0, None, labels=None),
    Target("direct method, training step", ("equiadapt",), 3.0, None, labels=None),
    Target("search", LOOPS, 5.0, None, labels=("without a network",)),
    Target("average", LOOPS, 5.0, None, labels=("without a model, 2 members", "without a model, 4 members")),
    Target("tax", ("ResNet-50",), 0.01, 0.02, at_least=False, groups=("C4",)),
    Target("crop_resize", PLAIN[:1], 2.0, None),
    Target("crop_resize, backward", PLAIN[:1], 3.0, None),
    Target("act, exact", ("limit",), 1.0, 1 / 0.85, at_least=False),
    Target("act, interpolated", ("limit",), 1.0, 1 / 0.70, at_least=False),
    Target("orbit", ("limit",), 1.0, 1 / 0.85, at_least=False, groups=("C4", "D4")),
    Target("orbit_conv2d", PLAIN[:1], 1.2, 3.0, labels=None),
    Target("orbit_conv2d", ("limit",), None, 1 / 0.60, at_least=False, labels=None),
    Target("orbit_conv2d, backward (weight)", PLAIN[:1], 1.2, 2.0, labels=None),
    Target("orbit_scores and losses", PLAIN[:1], 3.0, 5.0, labels=None),
    Target("orbit_scores and losses, forward", (), None, 15.0, at_least=False, labels=("CUDA graph",)),
    Target("orbit_scores and losses, backward", (), None, 15.0, at_least=False, labels=("CUDA graph",)),
    Target("straight-through backward", PLAIN[:1], 1.0, 4.0),
    Target("straight-through backward", ("eager, nothing kept",), 2.5, None),
    Target("host overhead", (), None, 20.0, at_least=False, labels=None),
)
