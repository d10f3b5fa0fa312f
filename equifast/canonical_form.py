"""What canonicalizing a batch returns, and what follows the images there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from . import averaging, checks, choice, losses, ops, refinement, representations, targets
from .dtypes import accumulate_dtype
from .groups import CyclicGroup, DihedralGroup, Group
from .targets import Targets
from .transform_set import Transforms, TransformSet, as_transforms


# Not frozen, since Lightning and Fabric refuse that.
@dataclass(eq=False)
class CanonicalForm:
    """What `canonicalize` found out about a batch; holds all the state there is.

    It is a pytree of its tensors, so ``torch.utils._pytree.tree_map`` and `torch.export` take it, and a dataclass, so
    Lightning, Fabric and Accelerate move it to a device. ``torch.load`` reads a saved one with ``weights_only=True``.

    Attributes:
        image: (B, C, H, W) like the input, ``g_e⁻¹·x`` with e = ``element`` (a blend of those for ``soft``).
        element: (B,) int64, the chosen ids.
        activations, probabilities: (B, E), the scores and their softmax. The probabilities of a sample are NaN where it
            fell back to the identity, for one of its activations is NaN or +inf, or all are −inf.
        vectors: (B, E, d), what the network made of the orbit; None when activations were given.
        group, padding_mode, gate: of the call. The padding is that of the images; masks have one of their own.
        refine: the rounds of the search. If there were any, ``group`` is the finest one, and E is the order of that but
            for ``vectors``, which are those of the coarse orbit. The search evaluates few of the elements; the others
            have the activation −inf and the probability 0.
    """

    image: Tensor
    element: Tensor
    activations: Tensor
    probabilities: Tensor
    vectors: Tensor | None
    group: Transforms
    padding_mode: str = "border"
    gate: float | None = None
    refine: int = 0

    def invert(self, y: Tensor, representation: str = "trivial") -> Tensor:
        """Outputs on canonical images back to the frame of the inputs, ``g_e·y``: (B, C', H', W') → the same.

        Representation "trivial": channels stay; "regular": blocks of E channels, ``out[k] = in[g⁻¹k]``; "vector":
        pairs of channels (x right, y down). Floating; label maps are for `invert_masks`.

        Raises:
            ValueError, TypeError: naming ``y`` or ``representation``.
        """
        checks.images("y", y)
        if y.shape[0] != self.element.shape[0]:
            raise ValueError(f"y: expected {self.element.shape[0]} images as in the form, got {y.shape[0]}")
        checks.same_device(element=self.element, y=y)
        representations.check(self.group, representation)
        checks.channels("y", y, representation, self.group.order)
        return ops.act(
            y,
            self.element,
            group=self.group,
            representation=representation,
            padding_mode=self.padding_mode,
        )

    def average(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        top_k: int | None = None,
        weights: str = "probabilities",
        representation: str = "invariant",
    ) -> Tensor:
        """Outputs of a model, averaged over the best members of the orbit of each image: (B, C, H, W) → (B, …).

        The members are those with the ``top_k`` largest activations; the lowest id comes first among equal ones. With
        their elements g_i and weights w_i, of which those of a sample add up to 1, this equals::

            sum(w_i * act(model(act(x, g_i, group=group, inverse=True)), g_i, group=group, …))

        and without the outer `act` for "invariant" outputs. An element that is masked has the weight 0. A sample that
        fell back to the identity is averaged over that alone. ``top_k=1`` is canonicalization,
        ``self.invert(model(self.image))``, with the gradient of the estimator. Otherwise the choice gets its gradient
        through the weights, if they are probabilities.

        Args:
            model: (N, C, H, W) → (N, …); any callable that treats its rows alike.
            x: the images that this form is of.
            top_k: the number of members; all by default, which after a search are all that it has evaluated.
            weights: "probabilities" or "equal".
            representation: "invariant" for outputs that don't move with the image, such as logits; else as in `invert`.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        members = refinement.candidate_count(self._coarse, self.refine)
        count = averaging.check_options(self.group, members, top_k, weights, representation)
        checks.images("x", x)
        if x.shape != self.image.shape:
            raise ValueError(f"x: expected the images of this form, {checks.shape(self.image)}, got {checks.shape(x)}")
        if count == 1:
            y = model(self.image)
            return y if representation == "invariant" else self.invert(y, representation)
        element, shares = averaging.frame(self.activations, self.probabilities, count, weights)
        options = {"representation": representation, "padding_mode": self.padding_mode}
        return averaging.average(model, x, element, shares, group=self.group, **options)

    def transform_boxes(self, boxes: Targets) -> Targets:
        """Boxes of the inputs to those of the canonical images; see `targets.act_boxes`.

        Boxes are (B, N, 4) or a list of (N_i, 4), in pixels of images of this form's size.
        """
        return targets.act_boxes(boxes, self.element, group=self.group, size=self._size, inverse=True)

    def invert_boxes(self, boxes: Targets) -> Targets:
        """Boxes on canonical images (predictions, say) back to the inputs; see `targets.act_boxes`."""
        return targets.act_boxes(boxes, self.element, group=self.group, size=self._size)

    def transform_points(self, points: Targets) -> Targets:
        """Pixel positions of the inputs to those of the canonical images; see `targets.act_points`.

        Points are (B, N, 2) or a list of (N_i, 2), in pixels of images of this form's size.
        """
        return targets.act_points(points, self.element, group=self.group, size=self._size, inverse=True)

    def invert_points(self, points: Targets) -> Targets:
        """Pixel positions on canonical images back to the inputs; see `targets.act_points`."""
        return targets.act_points(points, self.element, group=self.group, size=self._size)

    def transform_masks(self, masks: Targets, *, padding_mode: str = "zeros", fill: float = 0) -> Targets:
        """Masks of the inputs to those of the canonical images; see `targets.act_masks`.

        Masks are (B, H, W), (B, N, H, W) or a list of (N_i, H, W). Beyond their edge lies ``fill``, whatever
        ``padding_mode`` the images have: an object at the edge does not grow as the repeated edge of its image does.
        """
        return targets.act_masks(
            masks, self.element, group=self.group, inverse=True, padding_mode=padding_mode, fill=fill
        )

    def invert_masks(self, masks: Targets, *, padding_mode: str = "zeros", fill: float = 0) -> Targets:
        """Masks on canonical images back to the inputs, with ``fill`` beyond their edge; see `targets.act_masks`."""
        return targets.act_masks(masks, self.element, group=self.group, padding_mode=padding_mode, fill=fill)

    def prior_loss(self, target: Tensor | None = None, *, beta: float | None = None) -> Tensor:
        """`losses.prior_loss` of the activations."""
        return losses.prior_loss(self.activations, target, beta=beta)

    def contrastive_loss(self, *, normalize: bool = False) -> Tensor:
        """`losses.contrastive_loss` of the vectors, which are those of the orbit, whatever a search has added to it."""
        if self.vectors is None:
            raise ValueError("vectors: none here, since activations were given; no contrastive loss")
        return losses.contrastive_loss(self.vectors, group=self._coarse, normalize=normalize)

    @property
    def tied(self) -> Tensor:
        """Whether the activations leave open which element is right; (B,) bool, computed when asked for.

        True where several elements share the largest activation, as returned, and where the sample fell back to the
        identity because of an activation that is not finite. The canonical image of such a sample may change when the
        sample is turned. That of every other sample does not, unless ``gumbel`` draws the element.
        """
        best = self.activations.amax(1, keepdim=True)
        return ((self.activations == best).sum(1) > 1) | ~best.squeeze(1).isfinite()

    @property
    def margin(self) -> Tensor:
        """How far the best activation is above that of the identity; (B,), at least 0, in the dtype of the activations.

        NaN for a sample that fell back to the identity, infinite where the identity alone is masked.
        """
        return choice.margin(self.activations)

    @property
    def gated(self) -> Tensor:
        """Whether the gate kept an image from being turned; (B,) bool, False without a gate."""
        margin = self.margin
        return (margin > 0) & (margin < (0 if self.gate is None else self.gate))

    @property
    def entropy(self) -> Tensor:
        """Entropy of the probabilities in nats, ``−Σ p·log p``; (B,), float32 or float64.

        0 where one element is certain, log E where all are alike: an image that is symmetric, or in which the network
        recognizes nothing. After a search, log K is the most, of the K elements that were evaluated. NaN for a sample
        that fell back to the identity.

        Equivalent to: ``torch.distributions.Categorical(probs=probabilities).entropy()``.
        """
        return torch.special.entr(self.probabilities.to(accumulate_dtype(self.probabilities.dtype))).sum(1)

    def identity_rate(self) -> Tensor:
        """Share of the batch that was canonical already; float32 scalar."""
        return (self.element == 0).float().mean()

    @property
    def _coarse(self) -> Transforms:
        """The group of the orbit, which is ``group`` but for a search."""
        return refinement.coarser(self.group, self.refine)

    @property
    def _size(self) -> tuple[int, int]:
        return self.image.shape[-2], self.image.shape[-1]


#: The name of the group or of the set, padding_mode, gate and refine.
Context = tuple[str, str, float | None, int]

#: The attributes that are the same for every batch. The others are tensors.
_OPTIONS = ("group", "padding_mode", "gate", "refine")
_TENSORS = tuple(field.name for field in fields(CanonicalForm) if field.name not in _OPTIONS)


def _flatten(form: CanonicalForm) -> tuple[list[Tensor], Context]:
    # Vectors that are None are no leaf, as many functions of trees want nothing but tensors. Compilers and
    # `torch.export` want a context of strings.
    tensors = [getattr(form, name) for name in _TENSORS if getattr(form, name) is not None]
    return tensors, (form.group.name, form.padding_mode, form.gate, form.refine)


def _flatten_with_keys(form: CanonicalForm) -> tuple[list[tuple[_pytree.KeyEntry, Tensor]], Context]:
    tensors, context = _flatten(form)
    return [(_pytree.GetAttrKey(name), t) for name, t in zip(_TENSORS, tensors, strict=False)], context


def _unflatten(tensors: Iterable[Any], context: Context) -> CanonicalForm:
    image, element, activations, probabilities, *rest = tensors
    group, padding_mode, gate, refine = context
    vectors = rest[0] if rest else None
    scores = activations, probabilities, vectors
    return CanonicalForm(image, element, *scores, as_transforms(group), padding_mode, gate, refine)


_pytree.register_pytree_node(
    CanonicalForm,
    _flatten,
    _unflatten,
    serialized_type_name="equifast.CanonicalForm",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=_flatten_with_keys,
)
torch.serialization.add_safe_globals([CanonicalForm, Group, CyclicGroup, DihedralGroup, TransformSet])
