"""equiadapt's canonicalizers of images over C_n and D_n, on this package's kernels.

For rotations the results equal equiadapt's within rounding. For reflections equiadapt returns up to half of the images
in a wrong orientation and restores none of them; here they are right. docs/equiadapt.md lists every difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..... import checks
from .....canonical_form import CanonicalForm
from .....canonicalize import canonicalize
from .....estimators import ESTIMATORS
from .....groups import Group
from .....losses import contrastive_loss, vectors_there_and_back
from .....ops import crop_resize, orbit, select
from .....targets import act_masks
from ...common.basecanonicalization import DiscreteGroupCanonicalization
from .._action import act_by_angle, element_of
from .._settings import centre_crop, centred, has, in_the_middle, option, resized
from ..canonicalization_networks.custom_group_equivariant_layers import own_order
from ..utils import get_action_on_image_features

GROUPS = {"rotation": False, "roto-reflection": True}

#: The integer type of each size in bytes, in which masks of any type of that size are moved.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class DiscreteGroupImageCanonicalization(DiscreteGroupCanonicalization):
    """What both methods share. A subclass scores the elements in `get_group_activations`.

    Args:
        canonicalization_network: a module.
        canonicalization_hyperparams: any object with attributes, or mapping with keys, ``beta``, ``input_crop_ratio``
            and ``resize_shape`` (an integer is the length of the shorter side).
        in_shape: ``(C, H, W)`` of the images. As in equiadapt, images of one channel are neither cropped nor resized,
            and have zeros beyond their edge; others have their repeated edge.
        estimator: how the choice passes gradients in training. "angle" is equiadapt's way; the others are those of
            `equifast.canonicalize`. In evaluation the choice passes none.

    Attributes:
        group_type, num_rotations, num_group, group_info_dict: the group, as equiadapt describes it.
        form: the `CanonicalForm` of the last call, or None.
    """

    group_type: str
    num_rotations: int

    def __init__(
        self,
        canonicalization_network: nn.Module,
        canonicalization_hyperparams: object,
        in_shape: tuple[int, int, int],
        *,
        estimator: str = "angle",
    ) -> None:
        super().__init__(canonicalization_network)
        if len(in_shape) != 3:
            raise ValueError(f"in_shape: expected (C, H, W), got {tuple(in_shape)}")
        checks.one_of("estimator", estimator, ESTIMATORS)
        self.beta = option(canonicalization_hyperparams, "beta")
        self.estimator = estimator
        self.grayscale = in_shape[0] == 1
        self.padding_mode = "zeros" if self.grayscale else "border"
        self.crop_ratio = 1.0 if self.grayscale else option(canonicalization_hyperparams, "input_crop_ratio")
        resize_shape = None if self.grayscale else option(canonicalization_hyperparams, "resize_shape")
        self.resize_shape: int | tuple[int, int] | None = (
            tuple(resize_shape) if isinstance(resize_shape, Sequence) else resize_shape
        )
        if self.resize_shape is None and not self.grayscale:
            raise ValueError("resize_shape: expected an int or (H, W), got None")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"input_crop_ratio: expected more than 0 and at most 1, got {self.crop_ratio}")
        self.form: CanonicalForm | None = None
        self._device: torch.device | None = None

    @property
    def group(self) -> Group:
        """The group as this package describes it."""
        return Group(int(self.num_rotations), GROUPS[self.group_type])

    @property
    def device(self) -> torch.device:
        """The device of the last images; before the first call, the device of the parameters."""
        if self._device is not None:
            return self._device
        return next((tensor.device for tensor in self.parameters()), torch.device("cpu"))

    @device.setter
    def device(self, device: torch.device | str) -> None:
        self._device = torch.device(device)

    def canonicalize(self, x: Tensor, targets: list[dict] | None = None, **kwargs: object):
        """The canonical images of x (B, C, H, W); with ``targets``, the pair of these images and ``targets``.

        ``targets`` holds a dict for each image. As in equiadapt, "boxes" (N, 4) and "masks" (N, H, W) of the caller's
        own dicts are replaced by those that fit the canonical image. The former tensors are not changed.
        """
        self.device = x.device
        choice = self.get_groupelement(x)
        activations = self._from_last_call("group_activations")
        group, vectors = self.group, self.canonicalization_info_dict.get("vector_out")
        if vectors is not None:
            vectors = vectors.unflatten(0, (group.order, -1)).transpose(0, 1)
        if self.training and self.estimator != "angle":
            form = canonicalize(
                x,
                None,
                None,
                group=group,
                beta=self.beta,
                activations=activations,
                estimator=self.estimator,
                padding_mode=self.padding_mode,
            )
            image, element, probabilities = form.image, form.element, form.probabilities
        else:
            image = act_by_angle(x, choice, group, padding_mode=self.padding_mode, inverse=True)
            element, probabilities = element_of(choice, group), select(activations, self.beta).probabilities
        form = CanonicalForm(image, element, activations, probabilities, vectors, group, self.padding_mode)
        self.form = form
        if targets is None:
            return image
        self._move(targets, form)
        return image, targets

    def invert_canonicalization(
        self, x_canonicalized_out: Tensor, *, induced_rep_type: str = "regular", **kwargs: object
    ) -> Tensor:
        """Outputs for the last canonical images, turned back into the frame of the inputs.

        See `get_action_on_image_features` for ``induced_rep_type``.
        """
        return get_action_on_image_features(
            x_canonicalized_out, self.group_info_dict, self._from_last_call("group_element"), induced_rep_type
        )

    def get_group_activations(self, x: Tensor) -> Tensor:
        """The activations (B, E) of the elements for images x."""
        raise NotImplementedError

    def get_groupelement(self, x: Tensor) -> dict[str, Tensor]:
        """The element that is chosen for each of the images x, as `groupactivations_to_groupelement` describes it."""
        activations = self.get_group_activations(x)
        choice = self.groupactivations_to_groupelement(activations)
        self.canonicalization_info_dict.update(group_element=choice, group_activations=activations)
        return choice

    def groupactivations_to_groupelement(self, group_activations: Tensor) -> dict[str, Tensor]:
        """The choice for activations (B, E): "rotation" (B,) in degrees and, for D_n, "reflection" (B,), 0.0 or 1.0."""
        one_hot, group = self.groupactivations_to_groupelementonehot(group_activations), self.group
        angles = torch.linspace(0, 360, group.n + 1, device=one_hot.device)[:-1]
        if not group.reflections:
            return {"rotation": (one_hot * angles).sum(-1)}
        return {"rotation": (one_hot * angles.repeat(2)).sum(-1), "reflection": one_hot[:, group.n :].sum(-1)}

    def transformations_before_canonicalization_network_forward(self, x: Tensor) -> Tensor:
        """A centre crop by ``input_crop_ratio``, then an antialiased bilinear resize to ``resize_shape``."""
        if self.grayscale:
            return x
        height, width = (centred(math.ceil(n * self.crop_ratio), n) for n in x.shape[2:])
        size = self._resized((height, width))
        if size == (height, width):
            return centre_crop(x, size)
        return crop_resize(x, size, crop=in_the_middle(x, (height, width)))

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that images of this (height, width) are resized to."""
        assert self.resize_shape is not None  # only images of one channel have none, and those aren't resized
        return resized(size, self.resize_shape)

    def _set_group(self, group_type: str, num_rotations: int) -> None:
        if group_type not in GROUPS:
            raise ValueError(f"group_type: expected one of {', '.join(GROUPS)}, got {group_type!r}")
        self.group_type, self.num_rotations = group_type, int(num_rotations)
        self.num_group = self.group.order
        self.group_info_dict = {"num_rotations": self.num_rotations, "num_group": self.num_group}

    def _move(self, targets: Sequence[dict], form: CanonicalForm) -> None:
        if len(targets) != form.element.shape[0]:
            raise ValueError(f"targets: expected one for each of {form.element.shape[0]} images, got {len(targets)}")
        boxes = form.transform_boxes([target["boxes"] for target in targets])
        masks = [target["masks"] for target in targets]
        # Masks of any type are moved as integers of the same size, which take the nearest pixel. The integer 0, which
        # fills the outside, has the bits of 0 in every type.
        bits = [mask.view(BITS[mask.element_size()]) for mask in masks]
        moved = act_masks(bits, form.element, group=form.group, inverse=True, padding_mode="zeros")
        for target, moved_boxes, moved_masks in zip(targets, boxes, moved, strict=True):
            target.update(boxes=moved_boxes, masks=moved_masks.view(target["masks"].dtype))


class GroupEquivariantImageCanonicalization(DiscreteGroupImageCanonicalization):
    """EquiAdapt, the direct method: a group-equivariant network, (B, C, h, w) → (B, E), scores all elements at once.

    The group is that of the network: its ``group_type`` ("rotation" or "roto-reflection") and ``num_rotations``. If the
    network has no such attributes, they are read from the hyperparameters, or from ``network_hyperparams`` in these.

    ``reflections_first`` is for networks whose reflected elements mean "turn, then reflect", as in equiadapt's own
    equivariant layers: their inverse reflects first. In e2cnn, escnn and this package reflected elements mean "reflect,
    then turn". With ``reflections_first`` the activations are put into the order of this package. By default it is the
    network's attribute of that name, else False.
    """

    def __init__(
        self,
        canonicalization_network: nn.Module,
        canonicalization_hyperparams: object,
        in_shape: tuple[int, int, int],
        *,
        estimator: str = "angle",
        reflections_first: bool | None = None,
    ) -> None:
        super().__init__(canonicalization_network, canonicalization_hyperparams, in_shape, estimator=estimator)
        holders = [canonicalization_network, canonicalization_hyperparams]
        if has(canonicalization_hyperparams, "network_hyperparams"):
            holders.append(option(canonicalization_hyperparams, "network_hyperparams"))
        self._set_group(*(self._first_option(name, holders) for name in ("group_type", "num_rotations")))
        if reflections_first is None:
            reflections_first = getattr(canonicalization_network, "reflections_first", False)
        self.reflections_first = reflections_first

    @staticmethod
    def _first_option(name: str, holders: list[object]):
        """The option in the first of the holders that has it."""
        for options in holders:
            if has(options, name):
                return option(options, name)
        raise ValueError(f"{name}: neither the canonicalization network nor the hyperparameters have it")

    def get_group_activations(self, x: Tensor) -> Tensor:
        """The network's activations (B, E) for the cropped and resized images."""
        small = self.transformations_before_canonicalization_network_forward(x)
        activations = self.canonicalization_network(small)
        return activations[:, own_order(self.group)] if self.reflections_first else activations


class OptimizedGroupEquivariantImageCanonicalization(DiscreteGroupImageCanonicalization):
    """EquiOptAdapt: any network, (N, C, h, w) → (N, d), compared with a reference vector.

    The hyperparameters also hold ``group_type``, ``num_rotations``, ``learn_ref_vec`` and ``artifact_err_wt``. The
    network has an attribute ``out_vector_size``, which is d.
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
        self._set_group(*(option(canonicalization_hyperparams, name) for name in ("group_type", "num_rotations")))
        self.artifact_err_wt = option(canonicalization_hyperparams, "artifact_err_wt")
        # torch's stubs declare every attribute of a module as a Tensor or a Module.
        self.out_vector_size: int = canonicalization_network.out_vector_size  # type: ignore[assignment]
        self.reference_vector = nn.Parameter(
            torch.randn(1, self.out_vector_size),
            requires_grad=bool(option(canonicalization_hyperparams, "learn_ref_vec")),
        )

    def rotate_and_maybe_reflect(self, x: Tensor, degrees: Tensor, reflect: bool = False) -> list[Tensor]:
        """x turned clockwise by each of ``degrees``, any angles, then reflected left to right if ``reflect``."""
        table: list[float] = []
        for degree in degrees.tolist():
            quarters, rest = divmod(degree, 90.0)
            cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
            table += (quarters % 4 + 4 * reflect, cos, sin, -sin, cos)
        turned = torch.ops.equifast.orbit(x, None, table, [], [], self.padding_mode, False)
        return list(centre_crop(turned, self._member_size(x)).chunk(len(degrees)))

    def group_augment(self, x: Tensor) -> Tensor:
        """The orbit of x, element-major, each member cropped to the size that the network takes: (E·B, C, h, w)."""
        return centre_crop(orbit(x, self.group, padding_mode=self.padding_mode), self._member_size(x))

    def get_group_activations(self, x: Tensor) -> Tensor:
        """Similarity of the reference vector with the vector of each member of the orbit."""
        small = self.transformations_before_canonicalization_network_forward(x)
        size, network, group = self._member_size(small), self.canonicalization_network, self.group
        images = small
        score: Callable[[Tensor], Tensor] = network
        if small.shape[2:] != size:
            if group.permutes(*size):
                images = centre_crop(small, size)
            else:
                # The corners of a turned square come from outside the square, so the crop comes after the turn.
                def score(members: Tensor) -> Tensor:
                    return network(centre_crop(members, size))

        form = canonicalize(
            images,
            score,
            self.reference_vector.squeeze(0),
            group=group,
            beta=self.beta,
            estimator="none",
            padding_mode=self.padding_mode,
        )
        assert form.vectors is not None  # a network made them
        vectors = form.vectors.transpose(0, 1).flatten(0, 1)
        self.canonicalization_info_dict = {"vector_out": vectors}
        if self.training and self.artifact_err_wt:
            self.canonicalization_info_dict["vector_out_dummy"] = self._round_trip(small, vectors)
        return form.activations

    def get_optimization_specific_loss(self) -> Tensor:
        """The contrastive term on raw vectors; in training also ``artifact_err_wt`` times the artifact term."""
        vectors = self._from_last_call("vector_out")
        loss = contrastive_loss(vectors, group=self.group)
        round_trip = self.canonicalization_info_dict.get("vector_out_dummy")
        return loss if round_trip is None else loss + self.artifact_err_wt * F.mse_loss(round_trip, vectors)

    def _round_trip(self, small: Tensor, vectors: Tensor) -> Tensor:
        """Vectors of the orbit after each member was turned by a random rotation and back, which leaves artifacts."""
        rotations = Group(self.num_rotations)
        # Drawn even where it isn't used, so that a program with a seed draws the same numbers as with equiadapt.
        element = torch.randint(rotations.n, vectors.shape[:1]).to(vectors.device)
        if rotations.permutes(*self._member_size(small)):
            return vectors
        members = self.group_augment(small)
        return vectors_there_and_back(members, element, self.canonicalization_network, rotations, self.padding_mode)

    def _member_size(self, x: Tensor) -> tuple[int, int]:
        """The (height, width) of the members that the network sees: a square if ``resize_shape`` is one length."""
        if self.resize_shape is None:
            return x.shape[2], x.shape[3]
        return self.resize_shape if isinstance(self.resize_shape, tuple) else (self.resize_shape, self.resize_shape)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = super()._resized(size)
        if not isinstance(self.resize_shape, int):
            return height, width
        # The square that the network sees has to have the same centre as the image.
        return centred(height, self.resize_shape), centred(width, self.resize_shape)
