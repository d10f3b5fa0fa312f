"""equifast: fused kernels that make a pretrained vision network equivariant by canonicalization.

Start with `canonicalize` or `nn.Canonicalizer`; the ops below them are here too, and in `reference` in eager PyTorch.
``python -m equifast.info`` tells what this installation can run.
"""

__version__ = "0.1.0"

try:
    import torch  # noqa: F401
except Exception as error:  # so that equifast.info can still tell why
    _torch_error = error

    def __getattr__(name: str):
        raise ImportError(f"equifast.{name} needs torch, which can't be imported: {_torch_error}") from _torch_error

else:
    from . import backends, losses, nn, reference, scores
    from .backends import native
    from .canonical_form import CanonicalForm
    from .canonicalize import canonicalize
    from .choice import OrbitLosses, OrbitScores
    from .diagnose import Diagnosis, diagnose
    from .gating import gate_curve
    from .groups import CyclicGroup, DihedralGroup, Group, as_group
    from .nn.fusion import fuse_first_layer
    from .nn.symmetrized import symmetrize
    from .ops import (
        act,
        crop_resize,
        decompositions,
        orbit,
        orbit_average,
        orbit_conv2d,
        orbit_conv2d_pool,
        orbit_linear_scores,
        orbit_logit_scores,
        orbit_losses,
        orbit_scores,
    )
    from .preprocess import check_preprocess
    from .transform_set import TransformSet

    __all__ = [
        "CanonicalForm",
        "CyclicGroup",
        "Diagnosis",
        "DihedralGroup",
        "Group",
        "OrbitLosses",
        "OrbitScores",
        "TransformSet",
        "act",
        "as_group",
        "backends",
        "canonicalize",
        "check_preprocess",
        "crop_resize",
        "decompositions",
        "diagnose",
        "fuse_first_layer",
        "gate_curve",
        "losses",
        "nn",
        "orbit",
        "orbit_average",
        "orbit_conv2d",
        "orbit_conv2d_pool",
        "orbit_linear_scores",
        "orbit_logit_scores",
        "orbit_losses",
        "orbit_scores",
        "reference",
        "scores",
        "symmetrize",
    ]

    native.warn_if_slow()
