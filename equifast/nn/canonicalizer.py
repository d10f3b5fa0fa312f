"""Learned canonicalization as a module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import checks
from ..canonicalize import CanonicalForm, canonicalize
from ..estimators import ESTIMATORS
from ..groups import Group, as_group
from .fusion import FusedNetwork, fuse_first_layer
from .tracing import FusionError

FUSE = ("auto", True, False)


class Canonicalizer(nn.Module):
    """`equifast.canonicalize` with its network and reference vector: ``forward(x)`` takes (B, C, H, W), returns a
    `CanonicalForm`.

    Holds no other state: the same module may run many batches at once. ``state_dict`` has ``reference`` and
    ``network.*`` (and ``preprocess.*`` and ``score.*`` if those are modules).

    Args:
        network: (N, C, h, w) → (N, d); a module, or any callable.
        group: such as ``"C4"``.
        vector_size: d. By default that of ``reference``, or what the network says (``out_vector_size``,
            ``num_classes``, or the width of its last Linear).
        reference: (d,) to start from; by default drawn from a normal distribution.
        learn_reference: whether it is a parameter, or a buffer.
        beta, similarity, preprocess, estimator, padding_mode, score: as `canonicalize` has them. With ``score`` there
            is no reference. In eval mode "gumbel" takes the arg max.
        fuse: whether the network's first convolution makes the orbit (`fuse_first_layer`): True, False, or "auto":
            if it can; the reason why not is then in ``fusion_error``.
        example: images such as the network takes, for fusing; see `fuse_first_layer`.

    Attributes:
        fused: the `FusedNetwork` that runs, or None. Not a registered child: its parameters are ``network``'s.
        fusion_error: why there is none, or None.

    Raises:
        ValueError: for an unknown option, or if d can't be told.
        FusionError: with ``fuse=True``, why the network can't be fused.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        group: Group | str,
        *,
        vector_size: int | None = None,
        reference: Tensor | None = None,
        learn_reference: bool = True,
        beta: float = 1.0,
        similarity: str = "cosine",
        preprocess: Callable[[Tensor], Tensor] | None = None,
        estimator: str = "straight_through",
        padding_mode: str = "border",
        score: Callable[[Tensor], Tensor] | None = None,
        fuse: bool | str = "auto",
        example: Tensor | None = None,
    ) -> None:
        super().__init__()
        checks.one_of("estimator", estimator, ESTIMATORS)
        checks.padding_mode(padding_mode)
        if fuse not in FUSE:
            raise ValueError(f"fuse: expected one of {FUSE}, got {fuse!r}")
        self.network = network
        self.group = as_group(group)
        self.beta = beta
        self.similarity = similarity
        self.preprocess = preprocess
        self.estimator = estimator
        self.padding_mode = padding_mode
        self.score = score
        # In a tuple, so that it isn't registered: every parameter has one name.
        self._fused: tuple[FusedNetwork, ...] = ()
        self.fusion_error: str | None = None
        if fuse:
            self._fuse(example, strict=fuse is True)
        vector = None if score is not None else _reference(network, reference, vector_size)
        if vector is not None and learn_reference:
            self.reference = nn.Parameter(vector)
        else:
            self.register_buffer("reference", vector)

    def _fuse(self, example: Tensor | None, *, strict: bool) -> None:
        try:
            self._fused = (fuse_first_layer(self.network, self.group, example=example, padding_mode=self.padding_mode),)
        except FusionError as error:
            if strict:
                raise
            self.fusion_error = str(error)

    @property
    def fused(self) -> FusedNetwork | None:
        return self._fused[0] if self._fused else None

    def forward(self, x: Tensor) -> CanonicalForm:
        decided = self.estimator == "gumbel" and not self.training
        return canonicalize(
            x,
            self._fused[0] if self._fused else self.network,
            self.reference,
            group=self.group,
            beta=self.beta,
            similarity=self.similarity,
            preprocess=self.preprocess,
            estimator="straight_through" if decided else self.estimator,
            padding_mode=self.padding_mode,
            score=self.score,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.group}, beta={self.beta}, similarity={self.similarity}, estimator={self.estimator}, "
            f"padding_mode={self.padding_mode}, fused={bool(self._fused)}"
        )


def _reference(network: Callable, given: Tensor | None, size: int | None) -> Tensor:
    """The reference vector to start from."""
    if given is not None:
        if given.dim() != 1 or not given.is_floating_point() or size not in (None, given.shape[0]):
            expected = "(d,)" if size is None else f"({size},)"
            raise ValueError(f"reference: expected {expected}, floating, got {tuple(given.shape)} of {given.dtype}")
        return given.detach().clone()
    size = size or _vector_size(network)
    if size is None:
        raise ValueError("vector_size: needed, since network doesn't tell how long its vectors are")
    like = next(iter(network.parameters()), None) if isinstance(network, nn.Module) else None
    vector = torch.randn(size)
    return vector if like is None else vector.to(like)


def _vector_size(network: Callable) -> int | None:
    """d as the network itself tells it."""
    if not isinstance(network, nn.Module):
        return None
    for name in ("out_vector_size", "num_classes"):
        stated = getattr(network, name, None)
        if isinstance(stated, int) and stated > 0:
            return stated
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return linear[-1].out_features if linear else None
