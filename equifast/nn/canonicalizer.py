"""Learned canonicalization as a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from .. import checks
from ..canonical_form import CanonicalForm
from ..canonicalize import Score, canonicalize, check_score
from ..compiler import is_exporting
from ..estimators import ESTIMATORS, SURROGATES, check_gate
from ..groups import as_group
from ..orbit_vectors import NETWORK_DTYPES
from ..refinement import check_refine
from ..transform_set import Transforms, as_transforms
from . import saving
from .crop_resize import CropResize


class Canonicalizer(nn.Module):
    """`equifast.canonicalize` with its network and reference vector: ``forward(x)`` takes (B, C, H, W), returns a
    `CanonicalForm`.

    The module has no state besides these, so it may run many batches at once. ``state_dict`` has ``reference`` and
    ``network.*`` (and ``preprocess.*`` and ``score.*`` if those are modules).

    Args:
        network: (N, C, h, w) → (N, d); a module, or any callable.
        group: such as ``"C4"``, or a `TransformSet`.
        vector_size: d. By default the length of ``reference``, else the network's ``out_vector_size``, else the length
            of the first vectors; until these are there, the reference is uninitialized, as in torch's lazy modules.
        reference: the initial vector (d,); by default it is drawn from a normal distribution.
        learn_reference: whether the reference is a parameter; otherwise it is a buffer.
        crop, resize: a centre crop and a resize of the images before the network, as in `CropResize`.
        beta, similarity, preprocess, estimator, padding_mode, score, network_dtype, gate, refine: as in `canonicalize`.
            With ``score`` there is no reference. In eval mode "gumbel" takes the arg max. ``preprocess`` takes the
            place of ``crop`` and ``resize``, and has to commute with the group; `equifast.check_preprocess` tells
            whether it does.

    Raises:
        ValueError: for an option that is unknown, or that contradicts another one.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        group: Transforms | str,
        *,
        vector_size: int | None = None,
        reference: Tensor | None = None,
        learn_reference: bool = True,
        crop: float | str | None = None,
        resize: int | tuple[int, int] | None = None,
        beta: float = 1.0,
        similarity: str = "cosine",
        preprocess: Callable[[Tensor], Tensor] | None = None,
        estimator: str = "straight_through",
        padding_mode: str = "border",
        score: Score | None = None,
        network_dtype: torch.dtype | None = None,
        gate: float | None = None,
        refine: int = 0,
    ) -> None:
        super().__init__()
        checks.one_of("estimator", estimator, ESTIMATORS)
        check_gate(gate, estimator)
        check_score(score)
        checks.padding_mode(padding_mode)
        checks.one_of("network_dtype", network_dtype, NETWORK_DTYPES)
        if crop is not None or resize is not None:
            if preprocess is not None:
                raise ValueError("preprocess: expected None with crop or resize, which stand in its place")
            preprocess = CropResize(crop, resize)
        self.network = network
        self.group = as_group(group) if estimator == "angle" else as_transforms(group)
        check_refine(refine, self.group)
        self.beta = beta
        self.similarity = similarity
        self.preprocess = preprocess
        self.estimator = estimator
        self.padding_mode = padding_mode
        self.score = score
        self.network_dtype = network_dtype
        self.gate = gate
        self.refine = refine
        self.reference: Tensor | None
        vector = None if score is not None else _reference(network, reference, vector_size, learn_reference)
        if learn_reference:
            assert vector is None or isinstance(vector, nn.Parameter)
            self.register_parameter("reference", vector)
        else:
            self.register_buffer("reference", vector)

    def forward(self, x: Tensor) -> CanonicalForm:
        if self.training and is_exporting() and torch.is_grad_enabled():
            self._check_exported_gradient()
        takes_arg_max = self.estimator == "gumbel" and not self.training
        return canonicalize(
            x,
            self.network,
            self.reference,
            group=self.group,
            beta=self.beta,
            similarity=self.similarity,
            preprocess=self.preprocess,
            estimator="straight_through" if takes_arg_max else self.estimator,
            padding_mode=self.padding_mode,
            score=self.score,
            network_dtype=self.network_dtype,
            gate=self.gate,
            refine=self.refine,
        )

    def _check_exported_gradient(self) -> None:
        if self.estimator in SURROGATES:
            raise RuntimeError(
                f"estimator: torch.export drops the gradient of {self.estimator!r}; export the module in eval mode or "
                "under torch.no_grad(), or choose 'soft' or 'none'"
            )

    def reset_parameters(self) -> None:
        """Draw the reference anew from a normal distribution, where it has a size; the children are left as they are.

        Modules that were made on the meta device get values so: ``module.to_empty(device=…)``, then
        ``reset_parameters`` of each module in ``module.modules()`` that has it.
        """
        if self.reference is not None and not is_lazy(self.reference):
            with torch.no_grad():
                self.reference.normal_()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` to a folder, which is made if need be.

        The JSON file has the group, the options, the versions of equifast and torch, and what the network, the
        preprocessing and the score are: a `ConvNetwork`, the layer of a `TinyCanonicalizer`, a `CropResize` and a
        function of `equifast.scores` are described, so that `from_pretrained` makes them again. Others are named as
        "given", and it has to be given them.

        Raises:
            ValueError: if the reference has no size yet. ImportError: without the package ``safetensors``.
        """
        saving.save(self, folder)

    @staticmethod
    def from_pretrained(
        source: str | Path,
        *,
        network: Callable[[Tensor], Tensor] | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        score: Score | None = None,
        revision: str | None = None,
    ) -> Canonicalizer:
        """A canonicalizer as `save_pretrained` has written it, in eval mode and on the CPU.

        Args:
            source: a folder; or the name of a repository of the Hugging Face Hub, such as ``"user/name"``, of which the
                package ``huggingface_hub`` downloads these two files.
            network, preprocess, score: in place of those that the JSON file describes; needed where it says "given".
            revision: of the repository.

        Raises:
            ValueError: naming what is missing or does not fit: an argument, each tensor, or the format of the file.
        """
        folder = saving.folder_of(source, revision)
        given = {"network": network, "preprocess": preprocess, "score": score}
        module = Canonicalizer(**saving.options_of(folder, given))
        saving.load_weights(module, folder)
        return module.eval()

    def extra_repr(self) -> str:
        return (
            f"{self.group}, beta={self.beta}, similarity={self.similarity}, estimator={self.estimator}, "
            f"padding_mode={self.padding_mode}"
            + (f", network_dtype={self.network_dtype}" if self.network_dtype else "")
            + ("" if self.gate is None else f", gate={self.gate}")
            + (f", refine={self.refine}" if self.refine else "")
        )

    # As in torch's lazy modules: an uninitialized tensor is saved as such, and takes its size from the one it loads.
    _save_to_state_dict = LazyModuleMixin._save_to_state_dict

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        reference, saved = self.reference, state_dict.get(f"{prefix}reference")
        if reference is not None and is_lazy(reference) and saved is not None and not is_lazy(saved):
            with torch.no_grad():
                reference.materialize(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _reference(network: Callable, given: Tensor | None, size: int | None, learn: bool) -> Tensor:
    """The initial reference vector: a parameter if ``learn``, else a tensor for a buffer."""
    if given is not None:
        if given.dim() != 1 or not given.is_floating_point() or size not in (None, given.shape[0]):
            expected = "(d,)" if size is None else f"({size},)"
            raise ValueError(f"reference: expected {expected}, floating, got {tuple(given.shape)} of {given.dtype}")
        vector = given.detach().clone()
        return nn.Parameter(vector) if learn else vector
    like = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    if like is not None and not like.is_floating_point():
        like = None
    device, dtype = (None, None) if like is None else (like.device, like.dtype)
    size = size or getattr(network, "out_vector_size", None)
    if not isinstance(size, int):
        lazy = nn.UninitializedParameter if learn else nn.UninitializedBuffer
        return lazy(device=device, dtype=dtype)  # type: ignore[call-arg]  # torch's stubs have Parameter's arguments
    vector = torch.randn(size, device=device, dtype=dtype)
    return nn.Parameter(vector) if learn else vector
