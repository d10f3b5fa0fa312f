"""Classes that go where equiadapt's discrete image canonicalizers of the same names go.

Same constructor, same methods, same ``state_dict`` (their checkpoints load). What comes out is theirs within
rounding for rotations; for reflections, where theirs returns up to half of the images in another orientation and
restores none, it is right. Other differences, all on purpose: targets are never changed in place, and an empty list of
them is answered with one; boxes are the hull of four corners; elements stay integers; the artifact term is for
training alone; a crop that would be half a pixel off the centre, and so break every rotation, is one pixel larger. The
losses are theirs, without beta and on raw vectors.

As their interface has it, the last form stays on the module, in ``form``: use `equifast.nn.Canonicalizer` where two
batches may be under way at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..canonicalize import CanonicalForm, canonicalize
from ..groups import Group
from ..losses import artifact_loss

REPRESENTATIONS = {"scalar": "trivial", "regular": "regular", "vector": "vector"}
GROUPS = {"rotation": False, "roto-reflection": True}


class _DiscreteGroupImageCanonicalization(nn.Module):
    """What both have in common; ``_canonical_form`` makes the choice.

    Args:
        canonicalization_network: a module.
        canonicalization_hyperparams: any object with attributes, or mapping with keys, ``group_type`` ("rotation" or
            "roto-reflection"), ``num_rotations``, ``beta``, ``input_crop_ratio`` and ``resize_shape``.
        in_shape: ``(C, H, W)`` of the images. As in equiadapt, those of one channel are neither cropped nor resized,
            and turn within zeros, not within their repeated edge.
        estimator: how the choice passes gradients; by default as equiadapt does it.
    """

    def __init__(
        self,
        canonicalization_network: nn.Module,
        canonicalization_hyperparams: object,
        in_shape: tuple[int, int, int],
        *,
        estimator: str = "angle",
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            raise ValueError(f"in_shape: expected (C, H, W), got {tuple(in_shape)}")
        options = canonicalization_hyperparams
        kind = _option(options, "group_type")
        if kind not in GROUPS:
            raise ValueError(f"group_type: expected one of {', '.join(GROUPS)}, got {kind!r}")
        self.canonicalization_network = canonicalization_network
        self.group = Group(_option(options, "num_rotations"), GROUPS[kind])
        self.beta = _option(options, "beta")
        self.estimator = estimator
        grayscale = in_shape[0] == 1
        self.padding_mode = "zeros" if grayscale else "border"
        ratio = 1.0 if grayscale else _option(options, "input_crop_ratio")
        self.crop_size = None if grayscale else tuple(_centred(math.ceil(n * ratio), n) for n in in_shape[1:])
        self.resize_shape = None if grayscale else _option(options, "resize_shape")
        self.form: CanonicalForm | None = None

    def forward(self, x: Tensor, targets: Sequence[dict] | None = None, **kwargs: object):
        """`canonicalize`."""
        return self.canonicalize(x, targets)

    def canonicalize(self, x: Tensor, targets: Sequence[dict] | None = None, **kwargs: object):
        """Canonical images of x (B, C, H, W); with ``targets``, a dict with "boxes" (N, 4) and "masks" (N, H, W) for
        each image, also a list of new dicts that fit them."""
        self.form = self._canonical_form(x)
        if targets is None:
            return self.form.image
        boxes = self.form.transform_boxes([target["boxes"] for target in targets])
        masks = self.form.transform_masks([target["masks"] for target in targets])
        moved = zip(targets, boxes, masks, strict=True)
        return self.form.image, [{**target, "boxes": b, "masks": m} for target, b, m in moved]

    def invert_canonicalization(
        self, x_canonicalized_out: Tensor, *, induced_rep_type: str = "regular", **kwargs: object
    ) -> Tensor:
        """Outputs of the last batch back to the frame of its inputs; "regular" (blocks of E channels, numbered as
        `equifast.groups` numbers elements), "scalar" or "vector"."""
        if induced_rep_type not in REPRESENTATIONS:
            raise ValueError(
                f"induced_rep_type: expected one of {', '.join(REPRESENTATIONS)}, got {induced_rep_type!r}"
            )
        return self._last().invert(x_canonicalized_out, REPRESENTATIONS[induced_rep_type])

    def get_prior_regularization_loss(self) -> Tensor:
        """Cross-entropy of the last activations, without beta, with the identity."""
        return self._last().prior_loss()

    def get_identity_metric(self) -> Tensor:
        """Share of the last batch that was canonical already."""
        return self._last().identity_rate()

    @property
    def canonicalization_info_dict(self) -> dict[str, object]:
        """What equiadapt keeps under this name, from the last form: angles in degrees, reflections as 0.0 or 1.0."""
        form = self._last()
        element = {"rotation": (form.element % self.group.n) * (360.0 / self.group.n)}
        if self.group.reflections:
            element["reflection"] = (form.element // self.group.n).to(form.image.dtype)
        vectors = {} if form.vectors is None else {"vector_out": form.vectors.transpose(0, 1).flatten(0, 1)}
        return {"group_element": element, "group_activations": form.activations, **vectors}

    def transformations_before_canonicalization_network_forward(self, x: Tensor) -> Tensor:
        """A centre crop by ``input_crop_ratio``, and an antialiased bilinear resize of that to ``resize_shape``."""
        if self.crop_size is None:
            return x
        top, left = ((n - crop) // 2 for n, crop in zip(x.shape[2:], self.crop_size, strict=True))
        height, width = self.crop_size
        x = x[:, :, top : top + height, left : left + width]
        size = (self.resize_shape, self.resize_shape)
        return F.interpolate(x, size, mode="bilinear", antialias=True) if x.shape[2:] != size else x

    def _canonical_form(self, x: Tensor) -> CanonicalForm:
        raise NotImplementedError

    def _last(self) -> CanonicalForm:
        if self.form is None:
            raise RuntimeError("nothing canonicalized yet: call canonicalize first")
        return self.form


class OptimizedGroupEquivariantImageCanonicalization(_DiscreteGroupImageCanonicalization):
    """EquiOptAdapt: any network, (N, C, h, w) → (N, d), compared with a reference vector. Also read from the
    hyperparameters: ``learn_ref_vec`` and ``artifact_err_wt``.
    """

    def __init__(
        self,
        canonicalization_network: nn.Module,
        canonicalization_hyperparams: object,
        in_shape: tuple[int, int, int],
        *,
        estimator: str = "angle",
    ) -> None:
        super().__init__(canonicalization_network, canonicalization_hyperparams, in_shape, estimator=estimator)
        self.artifact_err_wt = _option(canonicalization_hyperparams, "artifact_err_wt")
        self.out_vector_size = canonicalization_network.out_vector_size
        self.reference_vector = nn.Parameter(
            torch.randn(1, self.out_vector_size),
            requires_grad=bool(_option(canonicalization_hyperparams, "learn_ref_vec")),
        )
        self._seen: Tensor | None = None

    def _canonical_form(self, x: Tensor) -> CanonicalForm:
        small = self.transformations_before_canonicalization_network_forward(x)
        self._seen = small if self.training and self.artifact_err_wt else None
        return canonicalize(
            x,
            self.canonicalization_network,
            self.reference_vector.squeeze(0),
            group=self.group,
            beta=self.beta,
            preprocess=lambda _: small,
            estimator=self.estimator,
            padding_mode=self.padding_mode,
        )

    def get_optimization_specific_loss(self) -> Tensor:
        """The contrastive term on raw vectors; in training also ``artifact_err_wt`` times the artifact term."""
        form = self._last()
        loss = form.contrastive_loss()
        if self._seen is None:
            return loss
        artifacts = artifact_loss(
            self._seen,
            self.canonicalization_network,
            group=self.group,
            vectors=form.vectors,
            padding_mode=self.padding_mode,
        )
        return loss + self.artifact_err_wt * artifacts


class GroupEquivariantImageCanonicalization(_DiscreteGroupImageCanonicalization):
    """EquiAdapt, the direct method: a group-equivariant network, (B, C, h, w) → (B, E), scores all elements at once.

    ``reflections_first`` is for networks that number reflected elements as "reflect, then rotate" (equiadapt's own
    equivariant layers), not "rotate, then reflect" (e2cnn, escnn, and this package).
    """

    def __init__(
        self,
        canonicalization_network: nn.Module,
        canonicalization_hyperparams: object,
        in_shape: tuple[int, int, int],
        *,
        estimator: str = "angle",
        reflections_first: bool = False,
    ) -> None:
        super().__init__(canonicalization_network, canonicalization_hyperparams, in_shape, estimator=estimator)
        self.reflections_first = reflections_first

    def _canonical_form(self, x: Tensor) -> CanonicalForm:
        small = self.transformations_before_canonicalization_network_forward(x)
        activations = self.canonicalization_network(small)
        if self.reflections_first and self.group.reflections:
            n = self.group.n
            order = [*range(n), *(n + -j % n for j in range(n))]
            activations = activations[:, order]
        return canonicalize(
            x,
            None,
            None,
            group=self.group,
            beta=self.beta,
            activations=activations,
            estimator=self.estimator,
            padding_mode=self.padding_mode,
        )


def _centred(crop: int, size: int) -> int:
    """The least size of a crop, from ``crop`` on, that has the centre of the image for its own."""
    return crop + (size - crop) % 2


def _option(options: object, name: str):
    """A hyperparameter by key or by attribute."""
    if isinstance(options, dict):
        if name not in options:
            raise ValueError(f"canonicalization_hyperparams: {name} is missing")
        return options[name]
    if not hasattr(options, name):
        raise ValueError(f"canonicalization_hyperparams: {name} is missing")
    return getattr(options, name)
