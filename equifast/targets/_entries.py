"""What boxes, points and masks have in common: a batch or a list, whose entries are checked one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor, nn

from .. import checks
from ..transform_set import Transforms, as_transforms

#: One tensor for the batch, or a list with one tensor for each image. The moved targets come in the same form.
Targets = TypeVar("Targets", Tensor, Sequence[Tensor])

#: A check of one tensor. It takes the name of the tensor for error texts, the tensor itself, and the number of images
#: in it: B for a batch, and None for an entry of a list, which belongs to one image.
Check = Callable[[str, Tensor, "int | None"], None]


def check_action(group: Transforms | str, element: Tensor) -> Transforms:
    """Check the group and the ids, and return the group."""
    group = as_transforms(group)
    checks.tensor("element", element)
    checks.elements("element", element, element.numel(), group.order)
    return group


def check_targets(name: str, targets: Targets, element: Tensor, check: Check) -> None:
    """Check a batch, or a list and each of its entries, before anything is moved."""
    batch = element.shape[0]
    if isinstance(targets, Tensor):
        checks.same_device(**{"element": element, name: targets})
        check(name, targets, batch)
        return
    if not isinstance(targets, Sequence) or isinstance(targets, str):
        got = type(targets).__name__
        raise TypeError(f"{name}: expected a Tensor or a list of one Tensor for each image, got {got}")
    if len(targets) != batch:
        raise ValueError(f"{name}: expected one tensor for each of {batch} images, got {len(targets)}")
    for i, entry in enumerate(targets):
        label = f"{name}[{i}]"
        checks.tensor(label, entry)
        checks.same_device(**{"element": element, label: entry})
        check(label, entry, None)


def tv_tensors():
    """``torchvision.tv_tensors``, or None if the program hasn't imported it. Then no argument is of such a class."""
    return sys.modules.get("torchvision.tv_tensors")


def is_tv_tensor(t: Tensor) -> bool:
    if type(t) in (Tensor, nn.Parameter):
        return False
    module = tv_tensors()
    return module is not None and isinstance(t, module.TVTensor)


def plain(t: Tensor) -> Tensor:
    """The same values without the class of a tv_tensor."""
    return t.as_subclass(Tensor) if is_tv_tensor(t) else t


def like(original: Tensor, moved: Tensor) -> Tensor:
    """The moved values in the class of the original, with its metadata."""
    return tv_tensors().wrap(moved, like=original) if is_tv_tensor(original) else moved
