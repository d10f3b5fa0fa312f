"""The whole pipeline, ``x -> c(x)⁻¹·x`` with the c(x) a network prefers (EquiOptAdapt, arXiv 2405.14089)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils import _pytree

from . import checks, lazy_orbit, losses, ops, targets
from .estimators import ESTIMATORS
from .groups import Group, as_group
from .reference import OrbitScores

Network = Callable[[Tensor], Any]

#: Bytes of orbit that a network takes at once where it may be run in parts: 64 rows of 3×96×96 float32. Twice as many
#: rows made `ConvNetwork` 50 % slower (2 cores), because each layer's output was then fresh memory from the system.
CHUNK_BYTES = 7 << 20

#: Libraries whose modules, in eval mode, treat every row alone and keep no state of a call.
STATELESS = ("equifast", "timm", "torch", "torchvision", "transformers")


@dataclass(frozen=True, eq=False)
class CanonicalForm:
    """What `canonicalize` found out about a batch. A pytree of its tensors; holds all the state there is.

    Attributes:
        image: (B, C, H, W) like the input, ``g_e⁻¹·x`` with e = ``element`` (a blend of those for ``soft``).
        element: (B,) int64, the chosen ids.
        activations, probabilities: (B, E), the scores and their softmax. The probabilities of a sample are NaN where it
            fell back to the identity, for one of its activations is NaN or +inf, or all are −inf.
        vectors: (B, E, d), what the network made of the orbit; None when activations were given.
        group, padding_mode: of the call. The padding is that of the images; masks have one of their own.
    """

    image: Tensor
    element: Tensor
    activations: Tensor
    probabilities: Tensor
    vectors: Tensor | None
    group: Group
    padding_mode: str = "border"

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
        checks.channels("y", y, representation, self.group.order)
        return ops.act(
            y,
            self.element,
            group=self.group,
            representation=representation,
            padding_mode=self.padding_mode,
        )

    def transform_boxes(self, boxes: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Boxes of the inputs to those of the canonical images; see `targets.act_boxes`.

        Boxes are (B, N, 4) or a list of (N_i, 4), in pixels of images of this form's size.
        """
        return targets.act_boxes(boxes, self.element, group=self.group, size=self._size, inverse=True)

    def invert_boxes(self, boxes: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Boxes on canonical images (predictions, say) back to the inputs; see `targets.act_boxes`."""
        return targets.act_boxes(boxes, self.element, group=self.group, size=self._size)

    def transform_points(self, points: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Pixel positions of the inputs to those of the canonical images; see `targets.act_points`.

        Points are (B, N, 2) or a list of (N_i, 2), in pixels of images of this form's size.
        """
        return targets.act_points(points, self.element, group=self.group, size=self._size, inverse=True)

    def invert_points(self, points: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Pixel positions on canonical images back to the inputs; see `targets.act_points`."""
        return targets.act_points(points, self.element, group=self.group, size=self._size)

    def transform_masks(
        self, masks: Tensor | Sequence[Tensor], *, padding_mode: str = "zeros", fill: float = 0
    ) -> Tensor | list[Tensor]:
        """Masks of the inputs to those of the canonical images; see `targets.act_masks`.

        Masks are (B, H, W), (B, N, H, W) or a list of (N_i, H, W). Beyond their edge lies ``fill``, whatever
        ``padding_mode`` the images have: an object at the edge does not grow as the repeated edge of its image does.
        """
        options = {"padding_mode": padding_mode, "fill": fill}
        return targets.act_masks(masks, self.element, group=self.group, inverse=True, **options)

    def invert_masks(
        self, masks: Tensor | Sequence[Tensor], *, padding_mode: str = "zeros", fill: float = 0
    ) -> Tensor | list[Tensor]:
        """Masks on canonical images back to the inputs, with ``fill`` beyond their edge; see `targets.act_masks`."""
        options = {"padding_mode": padding_mode, "fill": fill}
        return targets.act_masks(masks, self.element, group=self.group, **options)

    def prior_loss(self, target: Tensor | None = None, *, beta: float | None = None) -> Tensor:
        """`losses.prior_loss` of the activations."""
        return losses.prior_loss(self.activations, target, beta=beta)

    def contrastive_loss(self, *, normalize: bool = False) -> Tensor:
        """`losses.contrastive_loss` of the vectors."""
        if self.vectors is None:
            raise ValueError("vectors: none here, since activations were given; no contrastive loss")
        return losses.contrastive_loss(self.vectors, group=self.group, normalize=normalize)

    @property
    def tied(self) -> Tensor:
        """Whether the activations leave open which element is right; (B,) bool, computed when asked for.

        True where several elements share the largest activation, as returned, and where the sample fell back to the
        identity because of an activation that is not finite. The canonical image of such a sample may change when the
        sample is turned. That of every other sample does not, unless ``gumbel`` draws the element.
        """
        best = self.activations.amax(1, keepdim=True)
        return ((self.activations == best).sum(1) > 1) | ~best.squeeze(1).isfinite()

    def identity_rate(self) -> Tensor:
        """Share of the batch that was canonical already; float32 scalar."""
        return (self.element == 0).float().mean()

    @property
    def _size(self) -> tuple[int, int]:
        return self.image.shape[-2], self.image.shape[-1]


_TENSORS = tuple(field.name for field in fields(CanonicalForm) if field.name not in ("group", "padding_mode"))

_pytree.register_pytree_node(
    CanonicalForm,
    lambda form: ([getattr(form, name) for name in _TENSORS], (form.group, form.padding_mode)),
    lambda tensors, context: CanonicalForm(*tensors, *context),
    serialized_type_name="equifast.CanonicalForm",
)


def canonicalize(
    x: Tensor,
    network: Network | None,
    reference: Tensor | None,
    *,
    group: Group | str,
    beta: float = 1.0,
    similarity: str = "cosine",
    preprocess: Network | None = None,
    estimator: str = "straight_through",
    padding_mode: str = "border",
    score: Network | None = None,
    activations: Tensor | None = None,
) -> CanonicalForm:
    """Choose a group element for each image by a network's vectors of its orbit, and undo it.

    Equals, up to how gradients reach the choice (``estimator``)::

        vectors = network(orbit(preprocess(x), group))                        # (E·B, d)
        scores = orbit_scores(vectors, reference, group=group, beta=beta, similarity=similarity)
        image = act(x, scores.element, group=group, inverse=True)

    The network gets the orbit as a `lazy_orbit.LazyOrbit`: if a convolution is the first to read it, the orbit is never
    in memory. Any network gives the same results as on the orbit itself.

    Where nothing is to be differentiated, a network that is made of modules of torch, torchvision, timm, transformers
    and this package, in eval mode and without hooks, runs on a CPU a few images at a time.

    An activation of −inf masks its element, which is then never chosen. A sample with an activation of NaN or +inf, or
    with −inf alone, falls back to the identity: its image is x itself, its probabilities are NaN, and no gradient
    passes through its activations. The gradients of other samples and of the reference are what they would be without
    it.

    Args:
        x: (B, C, H, W), floating.
        network: any callable (N, C, h, w) → (N, d). It may also return an object with ``logits`` or a
            ``pooler_output`` (N, d), as models of transformers do.
        reference: (d,), what vectors are compared with; None if ``score`` is given. An uninitialized parameter or
            buffer gets d from the vectors, and values from a normal distribution.
        group: such as ``"C4"``.
        beta: inverse temperature of the softmax.
        similarity: "cosine" or "dot".
        preprocess: (B, C, H, W) → (B, C', h, w), before the orbit: a crop and a resize, such as `nn.CropResize`. It has
            to commute with the group, which `check_preprocess` checks; "nearest" resizing doesn't.
        estimator: "straight_through", "angle", "soft", "gumbel" or "none"; see `estimators`.
        padding_mode: "border" or "zeros", beyond the edge of an image.
        score: vectors (E·B, d) → activations (E·B,) in place of the reference, such as `scores.confidence` of a
            classifier's logits.
        activations: (B, E) from elsewhere (the direct method, EquiAdapt); then network and reference are None. −inf
            masks an element.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    group = as_group(group)
    checks.images("x", x)
    checks.one_of("estimator", estimator, ESTIMATORS)
    checks.padding_mode(padding_mode)
    vectors = None
    if activations is not None:
        unused = {"network": network, "reference": reference, "score": score, "preprocess": preprocess}
        for name, value in unused.items():
            if value is not None:
                raise ValueError(f"{name}: expected None, since activations are given")
        scores = _select(activations, x, group, beta)
    else:
        if not callable(network):
            raise TypeError(f"network: expected a callable, got {type(network).__name__}")
        if (reference is None) == (score is None):
            raise ValueError("reference: expected either it or score, got " + ("both" if score else "neither"))
        small = x if preprocess is None else _preprocess(preprocess, x)
        vectors = _orbit_vectors(small, network, group, padding_mode)
        _initialize(reference, vectors)
        scores = _scores(vectors, reference, score, x, group, beta, similarity)
        vectors = vectors.unflatten(0, (group.order, x.shape[0])).transpose(0, 1)
    image, element = ESTIMATORS[estimator](x, scores, group, beta, padding_mode)
    return CanonicalForm(image, element, scores.activations, scores.probabilities, vectors, group, padding_mode)


def _preprocess(preprocess: Network, x: Tensor) -> Tensor:
    small = preprocess(x)
    checks.images("preprocess(x)", small)
    if small.shape[0] != x.shape[0]:
        raise ValueError(f"preprocess(x): expected {x.shape[0]} images as in x, got {small.shape[0]}")
    return small


def _select(activations: Tensor, x: Tensor, group: Group, beta: float, name: str = "activations") -> OrbitScores:
    expected = (x.shape[0], group.order)
    if activations.shape != expected:
        raise ValueError(f"{name}: expected {expected} for {group}, got {tuple(activations.shape)}")
    checks.floating(name, activations)
    checks.same_device(**{"x": x, name: activations})
    return ops.select(activations, beta)


def _scores(
    vectors: Tensor,
    reference: Tensor | None,
    score: Network | None,
    x: Tensor,
    group: Group,
    beta: float,
    similarity: str,
) -> OrbitScores:
    if score is not None:
        values = score(vectors)
        if values.shape != vectors.shape[:1]:
            raise ValueError(f"score: expected to return ({vectors.shape[0]},), got {tuple(values.shape)}")
        return _select(values.unflatten(0, (group.order, x.shape[0])).t(), x, group, beta, "score")
    checks.tensor("reference", reference)
    # A network in a narrow type may well be compared with a reference that is kept in a wide one.
    common = torch.promote_types(vectors.dtype, reference.dtype)
    return ops.orbit_scores(vectors.to(common), reference.to(common), group=group, beta=beta, similarity=similarity)


def _initialize(reference: Tensor | None, vectors: Tensor) -> None:
    """Give a reference that waits for it the size of the vectors, and random values."""
    if not isinstance(reference, UninitializedTensorMixin):
        return
    if torch.compiler.is_compiling():
        raise RuntimeError("reference: not initialized; call the module once before compiling, or give vector_size")
    with torch.inference_mode(False), torch.no_grad():
        reference.materialize(vectors.shape[1:])
        reference.normal_()


def _orbit_vectors(x: Tensor, network: Network, group: Group, padding_mode: str) -> Tensor:
    """``network(orbit(x))``, (E·B, d), checked."""
    makes_orbit = getattr(network, "orbit_group", None) is not None
    if makes_orbit and (network.orbit_group.name, network.padding_mode) != (group.name, padding_mode):
        theirs, ours = f"{network.orbit_group} with {network.padding_mode}", f"{group} with {padding_mode}"
        raise ValueError(f"network: makes the orbit of {theirs} padding, called for {ours}")

    def run(images: Tensor) -> Tensor:
        output = network(images) if makes_orbit else lazy_orbit.run(network, images, group, padding_mode)
        vectors = _vectors_of(output)
        rows = group.order * images.shape[0]
        if not isinstance(vectors, Tensor) or vectors.dim() != 2 or vectors.shape[0] != rows:
            got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(f"network: expected to return ({rows}, d), got {got}")
        return vectors

    step = _chunk(x, network, group)
    if step >= x.shape[0]:
        return run(x)
    vectors: Tensor | None = None
    for start in range(0, x.shape[0], step):
        images = x[start : start + step]
        part = run(images).unflatten(0, (group.order, images.shape[0]))
        if vectors is None:
            vectors = part.new_empty(group.order, x.shape[0], part.shape[2])
        vectors[:, start : start + step] = part
    return vectors.flatten(0, 1)


def _vectors_of(output: Any) -> Any:
    """The vectors in what a network returned: the output itself, or those in an output object of transformers."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "pooler_output"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)
    return output


def _chunk(x: Tensor, network: Network, group: Group) -> int:
    """Images to run at once: all of them, or CHUNK_BYTES of orbit where parts give the same as the whole."""
    everything = max(x.shape[0], 1)
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not isinstance(network, nn.Module):
        return everything
    orbit_bytes = group.order * x[:1].numel() * x.element_size()
    fitting = max(CHUNK_BYTES // max(orbit_bytes, 1), 1)
    if fitting >= everything:
        return everything
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in network.parameters())):
        return everything
    in_parts = not _has_any_global_hook() and all(map(_treats_rows_alone, network.modules()))
    return fitting if in_parts else everything


def _treats_rows_alone(module: nn.Module) -> bool:
    """Whether the module gives each row the same result whatever the others are, and nobody watches its calls."""
    if module.training or module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if type(module).__module__.partition(".")[0] not in STATELESS:
        return False
    return not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is not None
