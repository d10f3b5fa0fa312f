"""A `TransformSet` of 16 uneven angles: its orbit, and a whole canonicalization by it, against the loops people write.

Beyond the edge lies 0, since torchvision has nothing else. A loop rotates the batch once for each angle and
concatenates: by `affine_grid` and `grid_sample`, or by the function of a library. Loops of the whole pipeline run the
same network and turn each image by its own angle, in one `grid_sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import equifast

from ..harness import contenders, eager, published
from ..harness.measure import Case, Contender, Options, direct, largest_difference, run
from ..harness.results import Row, rows, verdicts
from ..harness.settings import CROP, Setting, weights
from ..harness.timings import Work

ORBIT, CANONICALIZE = "orbit of a set", "canonicalize by a set"

#: No two differ by a quarter turn, so nothing is shared, but the identity.
ANGLES = tuple(22.0 * k + 0.25 * k * k for k in range(16))

Rotate = Callable[[Tensor, float], Tensor]


class Angles(Setting):
    """A setting whose group is the list of angles."""

    @property
    def order(self) -> int:
        return len(ANGLES)


def measure(options: Options) -> Iterator[tuple[list[Row], list[Row]]]:
    batch = options.batch()
    for setting, make in ((Angles("16 angles", batch, size=96, layers=0), orbit), (Angles("16 angles", batch), whole)):
        setting = options.setting(setting)
        case = make(setting, options.device)
        options.log(f"{case.measure}: {setting}")
        timings = run(case, options)
        yield rows(case.measure, setting, timings), verdicts(case.measure, setting, timings, options.kind)


def orbit(setting: Setting, device: torch.device) -> Case:
    transforms = equifast.TransformSet(angles=ANGLES)
    entries = [Contender(name, partial(_direct_orbit, make)) for name, make in LOOPS.items()]
    entries.append(Contender("compile", lambda: direct(torch.compile(partial(loop, by_grid()), dynamic=False))))
    ours = partial(equifast.orbit, group=transforms, padding_mode="zeros")
    entries.append(Contender(contenders.ours(device), lambda: direct(ours)))
    moved = (1 + setting.order) * setting.bytes

    def compare(got: Tensor, expected: Tensor, name: str) -> str | None:
        return largest_difference(got, expected, contenders.TOLERANCE[setting.dtype])

    return Case(ORBIT, setting, _inputs(setting, device), entries, "eager", compare, Work(moved, limit_moved=moved))


def whole(setting: Setting, device: torch.device) -> Case:
    entries = [Contender(name, partial(_direct_loop, setting, device, make)) for name, make in LOOPS.items()]
    entries.append(Contender(contenders.ours(device), lambda: direct(_ours(setting, device))))

    def compare(got: tuple, expected: tuple, name: str) -> str | None:
        return contenders.same_choice(got, expected, setting)

    return Case(CANONICALIZE, setting, _inputs(setting, device), entries, "eager", compare)


def _inputs(setting: Setting, device: torch.device):
    return lambda generator: (setting.images(generator, device),)


def by_grid() -> Rotate:
    def rotate(x: Tensor, degrees: float) -> Tensor:
        return _sampled(x, _matrices(x, torch.tensor([degrees], device=x.device)))

    return rotate


def by_torchvision() -> Rotate:
    published.declare_torchvision_operators()
    from torchvision.transforms.v2.functional import InterpolationMode, rotate_image

    return lambda x, degrees: rotate_image(x, -degrees, InterpolationMode.BILINEAR)


def by_kornia() -> Rotate:
    published.declare_torchvision_operators()
    from kornia.geometry.transform import rotate

    return lambda x, degrees: rotate(x, torch.tensor([-degrees], device=x.device).expand(len(x)).to(x))


#: What makes the rotation that a loop calls. A set's member is the image turned back.
LOOPS: dict[str, Callable[[], Rotate]] = {"eager": by_grid, "torchvision": by_torchvision, "kornia": by_kornia}


def loop(rotate: Rotate, x: Tensor) -> Tensor:
    return torch.cat([rotate(x, degrees) for degrees in ANGLES])


def _direct_orbit(make: Callable[[], Rotate]):
    return direct(partial(loop, make()))


def _direct_loop(setting: Setting, device: torch.device, make: Callable[[], Rotate]):
    rotate, reference = make(), weights(setting)[1].to(device)
    network = contenders.plain_network(setting).to(device).eval()

    def canonicalize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activations = eager.scores(network(loop(rotate, eager.crop_resize(x, setting))), reference, setting.order)
        element = activations.argmax(1)
        degrees = torch.tensor(ANGLES, device=x.device)[element]
        return _sampled(x, _matrices(x, degrees)), element, activations

    return direct(canonicalize)


def _ours(setting: Setting, device: torch.device):
    state, reference = weights(setting)
    network = equifast.nn.ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
    network.load_state_dict(state)
    transforms = equifast.TransformSet(angles=ANGLES)
    options = {"crop": CROP, "resize": setting.resize, "padding_mode": "zeros"}
    module = equifast.nn.Canonicalizer(network, transforms, reference=reference, **options).to(device).eval()

    def canonicalize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        form = module(x)
        return form.image, form.element, form.activations

    return canonicalize


def _matrices(x: Tensor, degrees: Tensor) -> Tensor:
    """(N, 2, 3), by which square images are read that are turned back."""
    angle = degrees.deg2rad().to(x)
    c, s, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack((c, s, zero, -s, c, zero), 1).unflatten(1, (2, 3))


def _sampled(x: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "zeros", align_corners=False)
