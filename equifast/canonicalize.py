"""The whole pipeline, ``x -> c(x)⁻¹·x`` with the c(x) a network prefers (EquiOptAdapt, arXiv 2405.14089)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]  # not in torch's stubs

from . import checks, ops, refinement, scores
from .canonical_form import CanonicalForm
from .choice import OrbitScores, gated
from .estimators import ESTIMATORS, check_gate
from .groups import CyclicGroup, as_group
from .orbit_vectors import NETWORK_DTYPES, Network, orbit_vectors
from .transform_set import Transforms, as_transforms

#: The name of a function of `scores`, or any function of vectors.
Score = str | Callable[[Tensor], Tensor]


def canonicalize(
    x: Tensor,
    network: Network | None = None,
    reference: Tensor | None = None,
    *,
    group: Transforms | str,
    beta: float = 1.0,
    similarity: str = "cosine",
    preprocess: Network | None = None,
    estimator: str = "straight_through",
    padding_mode: str = "border",
    score: Score | None = None,
    activations: Tensor | None = None,
    network_dtype: torch.dtype | None = None,
    gate: float | None = None,
    refine: int = 0,
) -> CanonicalForm:
    """Choose a group element for each image by a network's vectors of its orbit, and undo it.

    Equals, up to how gradients reach the choice (``estimator``)::

        vectors = network(orbit(preprocess(x), group))                        # (E·B, d)
        scores = orbit_scores(vectors, reference, group=group, beta=beta, similarity=similarity)
        image = act(x, scores.element, group=group, inverse=True)

    The network gets the orbit as a ``LazyOrbit``: if a convolution is the first to read it, the orbit is never in
    memory. Any network gives the same results as on the orbit itself.

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
        group: such as ``"C4"``, or a `TransformSet`: any candidates, such as angles and scales.
        beta: inverse temperature of the softmax.
        similarity: "cosine" or "dot".
        preprocess: (B, C, H, W) → (B, C', h, w), before the orbit: a crop and a resize, such as `nn.CropResize`. It has
            to commute with the group, which `check_preprocess` checks; "nearest" resizing doesn't.
        estimator: "straight_through", "angle", "soft", "gumbel" or "none"; see `estimators`.
        padding_mode: "border" or "zeros", beyond the edge of an image.
        score: vectors (E·B, d) → activations (E·B,) in place of the reference; or ``"confidence"``, ``"margin"``,
            ``"negative_entropy"`` or ``"energy"`` of a classifier's logits, each of which names a function of `scores`.
            These functions and `scores.of_class` run together with the choice (`orbit_logit_scores`).
        activations: (B, E) from elsewhere, such as `nn.EquivariantNetwork` (the direct method, EquiAdapt); then network
            and reference are None. −inf masks an element.
        network_dtype: ``torch.bfloat16`` or ``torch.float16``: the network runs under autocast to it. Parameters, the
            vectors that it returns, their scores and the images keep float32 or what they have.
        gate: an image is left as it is unless the best activation is above that of the identity by so much;
            `CanonicalForm.gated` tells which are. So images that hardly matter keep their orientation, and an image and
            a turned one may be left different. None for no gate; "soft" and "gumbel" have none.
        refine: rounds of a search for the best rotation, after the orbit: each compares the best so far with its two
            neighbours at half the step, so that k rounds from C8 end within 45°/2^k. ``group`` and ``element`` of the
            form are those of the finest group, C_{n·2^k} or D_{n·2^k}. Elements that the search has left out have the
            activation −inf and the probability 0; ``vectors`` are those of the orbit alone. Where scores have several
            maxima along the circle, it finds one near the best member of the orbit.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    group = as_transforms(group)
    checks.images("x", x)
    checks.one_of("estimator", estimator, ESTIMATORS)
    checks.padding_mode(padding_mode)
    checks.one_of("network_dtype", network_dtype, NETWORK_DTYPES)
    check_gate(gate, estimator)
    check_score(score)
    refinement.check_refine(refine, group)
    vectors, found = None, None
    if activations is not None:
        unused = {
            "network": network,
            "reference": reference,
            "score": score,
            "preprocess": preprocess,
            "network_dtype": network_dtype,
        }
        for name, value in unused.items():
            if value is not None:
                raise ValueError(f"{name}: expected None, since activations are given")
        if refine:
            raise ValueError("refine: expected 0, since activations are given and nothing can be evaluated")
        chosen = _select(activations, x, group, beta)
    else:
        if not callable(network):
            raise TypeError(f"network: expected a callable, got {type(network).__name__}")
        if (reference is None) == (score is None):
            raise ValueError("reference: expected either it or score, got " + ("both" if score else "neither"))
        small = x if preprocess is None else _preprocess(preprocess, x)
        vectors = orbit_vectors(small, network, group, padding_mode, network_dtype)
        _initialize(reference, vectors)
        chosen = _scores(vectors, reference, score, x, group, beta, similarity)
        if refine:

            def evaluate(rows: Tensor) -> Tensor:
                made = orbit_vectors(rows, network, CyclicGroup(1), padding_mode, network_dtype, are_rows=True)
                return _scores(made, reference, score, x, CyclicGroup(2), beta, similarity).activations

            found = refinement.search(
                evaluate, small, chosen, group=as_group(group), refine=refine, beta=beta, padding_mode=padding_mode
            )
            chosen = found.scores
        vectors = vectors.unflatten(0, (group.order, x.shape[0])).transpose(0, 1)
    chosen = chosen if gate is None else gated(chosen, gate)
    if found is None:
        image, element = ESTIMATORS[estimator](x, chosen, group, beta, padding_mode)
    else:
        image, element = refinement.estimate(estimator, x, found._replace(scores=chosen), beta, padding_mode)
        group = found.fine
    tensors = image, element, chosen.activations, chosen.probabilities, vectors
    return CanonicalForm(*tensors, group, padding_mode, gate, refine)


def check_score(score: Score | None) -> None:
    """Raise an error unless ``score`` is a name that `canonicalize` knows, or can be called."""
    if isinstance(score, str):
        checks.one_of("score", score, scores.NAMED)
    elif score is not None and not callable(score):
        raise TypeError(f"score: expected a name or a callable, got {type(score).__name__}")


def _preprocess(preprocess: Network, x: Tensor) -> Tensor:
    small = preprocess(x)
    checks.images("preprocess(x)", small)
    if small.shape[0] != x.shape[0]:
        raise ValueError(f"preprocess(x): expected {x.shape[0]} images as in x, got {small.shape[0]}")
    return small


def _select(activations: Tensor, x: Tensor, group: Transforms, beta: float, name: str = "activations") -> OrbitScores:
    expected = (x.shape[0], group.order)
    if activations.shape != expected:
        raise ValueError(f"{name}: expected {expected} for {group}, got {tuple(activations.shape)}")
    checks.floating(name, activations)
    checks.same_device(**{"x": x, name: activations})
    return ops.select(activations, beta)


def _scores(
    vectors: Tensor,
    reference: Tensor | None,
    score: Score | None,
    x: Tensor,
    group: Transforms,
    beta: float,
    similarity: str,
) -> OrbitScores:
    if score is not None:
        name, index = scores.named(score)
        if name is not None:
            return ops.orbit_logit_scores(vectors, group=group, score=name, index=index, beta=beta)
        assert callable(score)
        values = score(vectors)
        if values.shape != vectors.shape[:1]:
            raise ValueError(f"score: expected to return ({vectors.shape[0]},), got {tuple(values.shape)}")
        return _select(values.unflatten(0, (group.order, x.shape[0])).t(), x, group, beta, "score")
    reference = checks.tensor("reference", reference)
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
