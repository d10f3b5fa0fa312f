"""The measurement: every image in every orientation, alone and canonicalized."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..canonical_form import CanonicalForm
from ..canonicalize import Score, canonicalize
from ..groups import Group, as_group
from ..nn.symmetrized import symmetrize
from .chance import Told, means, shares, told
from .costs import seconds
from .diagnosis import Diagnosis
from .findings import Choices, Views, Worst
from .outputs import Reader
from .study import Study

#: How outputs may move with the image.
REPRESENTATIONS = ("invariant", "trivial")


@torch.no_grad()
def diagnose(
    model: Callable[[Tensor], Any],
    images: Tensor,
    labels: Tensor | None = None,
    group: Group | str = "C4",
    *,
    canonicalizer: Callable[[Tensor], CanonicalForm] | None = None,
    score: Score = "confidence",
    representation: str = "invariant",
    padding_mode: str = "border",
    features: str | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 32,
    rounds: int = 5,
    worst: int = 3,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> Diagnosis:
    """How a model's answers change over a group, before and after canonicalization, and what the choice gives away.

    For each element h, the turned images ``g_h·x`` go through the model alone, and through the canonicalizer and the
    model. So with E elements and a classifier that scores its own orbit, the model runs E² + 3·E times for each image.
    Nothing is assumed of what should be equal: it is measured. If an element interpolates, turned images lose their
    corners; all images are then shown within the inscribed disc, and a note says so.

    Args:
        model: (B, C, H, W) → logits (B, K), or an object with such ``logits``; in eval mode.
        images: (N, C, H, W), upright and as the model wants them, N ≥ 1.
        labels: (N,) int64, negative where there is none; or (N, K) bool, which of the classes are right. For maps
            (N, H', W') int64. Without labels there is no accuracy.
        group: such as ``"C4"``.
        canonicalizer: (B, C, H, W) → `CanonicalForm`, such as `nn.Canonicalizer`, for the same group and in eval mode.
            By default the model chooses by its own ``score``.
        score: a name or a function (E·B, K) → (E·B,), as in `canonicalize`; unused with a canonicalizer.
        representation: "invariant" for logits (N, K); "trivial" for maps (N, K, H', W'), such as a segmentation. These
            are compared after they have been turned back, and need a canonicalizer.
        padding_mode: "border" or "zeros", beyond the edge of a turned image.
        features: the name of a module of the model, whose output is compared; of maps the mean over the pixels. By
            default the input of the linear layer that is called last, if the model has one.
        classes: names of the K classes, for text and picture.
        batch_size: images that run at once.
        rounds: how often times are taken; 0 for none.
        worst: how many of the images that change most are kept.
        seed: of the random turns, of pixels in disorder and of permutation tests.
        progress: wraps the list of batches, such as ``tqdm.tqdm``.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    group = as_group(group)
    is_dense = representation == "trivial"
    _check(model, images, group, canonicalizer, representation, padding_mode, batch_size)
    if canonicalizer is None:
        canonicalizer = partial(
            canonicalize, network=model, group=group, score=score, padding_mode=padding_mode, estimator="none"
        )
    reader = Reader(model, is_dense=is_dense, features=features)
    study = Study(reader, canonicalizer, group, padding_mode, images.shape, classes)
    targets = None if labels is None else _labels(labels, images, is_dense)
    parts = range(0, len(images), batch_size)
    generator = torch.Generator("cpu").manual_seed(seed)
    turns = torch.randint(group.order, (len(images),), generator=generator, device="cpu")
    for start in parts if progress is None else progress(parts):
        part = slice(start, start + batch_size)
        study.add(images[part], None if targets is None else targets[part], turns[part], generator)
    found = study.collected()
    kept = found.pop("kept")
    chosen, disordered = found.pop("chosen"), found.pop("disordered")[:, 0]
    every = torch.arange(len(images), device="cpu")
    from_element, from_turned = _label_tests(chosen[:, 0], chosen[every, turns], targets, group, is_dense, generator)
    changed = found["distance"].mean(1).topk(min(worst, len(images))).indices
    return Diagnosis(
        group=group,
        count=len(images),
        exact=[group.is_exact(e, *images.shape[2:]) for e in range(group.order)],
        before=_views(found, "", targets is not None),
        after=_views(found, " after", targets is not None),
        kept=shares(kept[:, 0]),
        choices=_choices(found, chosen, group),
        label_from_element=from_element,
        label_from_turned=from_turned,
        turn_from_element=told(chosen[every, turns], turns, group.order, generator),
        turn_from_disorder=told(disordered, turns, group.order, generator),
        seconds=_seconds(study, images[:batch_size], representation, rounds),
        worst=Worst(
            index=changed,
            images=study.seen(images[changed.to(images.device)]).cpu(),
            element=chosen[changed],
            before=None if is_dense else found["answer"][changed],
            after=None if is_dense else found["answer after"][changed],
            right_before=found["right"][changed],
            right_after=found["right after"][changed],
        ),
        features=study.reader.source if "features" in found else None,
        notes=study.notes("features" in found),
        classes=classes,
    )


def _check(
    model: object,
    images: Tensor,
    group: Group,
    canonicalizer: object,
    representation: str,
    padding_mode: str,
    batch_size: int,
) -> None:
    """Raise an error that names the argument which `diagnose` can't take."""
    checks.images("images", images)
    if not len(images):
        raise ValueError(f"images: expected at least one, got {checks.shape(images)}")
    checks.one_of("representation", representation, REPRESENTATIONS)
    checks.padding_mode(padding_mode)
    if canonicalizer is None and representation == "trivial":
        raise ValueError("canonicalizer: needed with representation='trivial', since no score ranks maps")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    for name, module in (("model", model), ("canonicalizer", canonicalizer)):
        if isinstance(module, nn.Module) and module.training:
            raise ValueError(f"{name}: expected to be in eval mode; call {name}.eval()")
    if (other := getattr(canonicalizer, "group", group)) != group:
        raise ValueError(f"canonicalizer: expected one for {group}, got one for {other}")


def _labels(labels: Tensor, images: Tensor, is_dense: bool) -> Tensor:
    checks.tensor("labels", labels)
    shapes = "(N, H, W) int64" if is_dense else "(N,) int64 or (N, K) bool"
    kinds = {(torch.int64, 3)} if is_dense else {(torch.int64, 1), (torch.bool, 2)}
    if (labels.dtype, labels.dim()) not in kinds or len(labels) != len(images):
        raise ValueError(
            f"labels: expected {shapes} for N = {len(images)} images, got {checks.shape(labels)} {labels.dtype}"
        )
    checks.same_device(images=images, labels=labels)
    return labels


def _label_tests(
    upright: Tensor, turned: Tensor, labels: Tensor | None, group: Group, is_dense: bool, generator: torch.Generator
) -> tuple[Told | None, Told | None]:
    """What the elements of images as they come, and of turned ones, tell of their labels."""
    if labels is None or is_dense:
        return None, None
    labels = labels.cpu()
    has_label = labels.any(1) if labels.dtype == torch.bool else labels >= 0
    if not has_label.any():
        return None, None
    # Images for which the same classes are right are of one kind.
    kinds = labels[has_label].unique(dim=0, return_inverse=True)[1]
    upright, turned = upright[has_label], turned[has_label]
    return told(upright, kinds, group.order, generator), told(turned, kinds, group.order, generator)


def _views(found: dict[str, Tensor], suffix: str, has_labels: bool) -> Views:
    return Views(
        accuracy=shares(found["right" + suffix]) if has_labels else None,
        confidence=means(found["confidence" + suffix]),
        consistency=shares(found["consistency" + suffix]),
        distance=means(found["distance" + suffix]),
        feature_distance=means(found["features" + suffix]) if "features" + suffix in found else None,
    )


def _choices(found: dict[str, Tensor], chosen: Tensor, group: Group) -> Choices:
    order = group.order
    carried = torch.tensor([[group.compose(h, e) for h in range(order)] for e in range(order)], device="cpu")
    entropy = found["entropy"][:, 0].double() / (math.log(order) if order > 1 else math.nan)
    return Choices(
        counts=torch.stack([torch.bincount(column, minlength=order) for column in chosen.unbind(1)]),
        identity=shares(chosen[:, 0] == 0),
        equivariance=shares(chosen == carried[chosen[:, 0]]),
        tied=shares(found["tied"][:, 0]),
        entropy=means(entropy[~entropy.isnan()].clamp(max=1)),
    )


def _seconds(study: Study, x: Tensor, representation: str, rounds: int) -> dict[str, float]:
    x, model = study.seen(x), study.reader.logits
    every = symmetrize(model, study.group, representation=representation, padding_mode=study.padding_mode)
    runs = {
        "model": lambda: model(x),
        "canonicalizer": lambda: study.form(x),
        "together": lambda: model(study.form(x).image),
        "all members": lambda: every(x),
    }
    return seconds(runs, x, rounds)
