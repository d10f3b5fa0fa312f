"""What `canonicalize` refuses, by name."""

import pytest
import torch

from equifast import canonicalize


def flat(images):
    return images.flatten(1)[:, :8]


BAD = {
    "rank": ({"x": torch.rand(3, 8, 8)}, ValueError, r"x: expected \(B, C, H, W\), got \(3, 8, 8\)"),
    "integers": ({"x": torch.zeros(2, 3, 8, 8).long()}, TypeError, "x: .*int64"),
    "no tensor": ({"x": [1.0]}, TypeError, "x: expected a Tensor, got list"),
    "group": ({"group": "E4"}, ValueError, "group: .*'E4'"),
    "estimator": ({"estimator": "hard"}, ValueError, "estimator: expected one of straight_through, .*'hard'"),
    "padding": ({"padding_mode": "wrap"}, ValueError, "padding_mode: .*'wrap'"),
    "similarity": ({"similarity": "l2"}, ValueError, "similarity: .*'l2'"),
    "network": ({"network": None}, TypeError, "network: expected a callable, got NoneType"),
    "rows": ({"network": lambda v: flat(v)[:3]}, ValueError, r"network: expected to return \(8, d\), got \(3, 8\)"),
    "output rank": ({"network": lambda v: v}, ValueError, r"network: expected to return \(8, d\), got \(8, 3, 8, 8\)"),
    "output type": ({"network": lambda v: (v,)}, ValueError, r"network: expected to return \(8, d\), got tuple"),
    "reference size": ({"reference": torch.ones(7)}, ValueError, r"reference: expected \(8,\).*got \(7,\)"),
    "reference type": ({"reference": 3}, TypeError, "reference: expected a Tensor, got int"),
    "no reference": ({"reference": None}, ValueError, "reference: expected either it or score, got neither"),
    "both": ({"score": torch.sum}, ValueError, "reference: expected either it or score, got both"),
    "score": ({"reference": None, "score": lambda v: v}, ValueError, r"score: expected to return \(8,\), got \(8, 8\)"),
    "preprocess": ({"preprocess": lambda v: v[:1]}, ValueError, r"preprocess\(x\): expected 2 images as in x, got 1"),
    "preprocess rank": ({"preprocess": flat}, ValueError, r"preprocess\(x\): expected \(B, C, H, W\), got \(2, 8\)"),
    "two sources": ({"activations": torch.ones(2, 4)}, ValueError, "network: expected None, since activations are"),
    "activations": (
        {"network": None, "reference": None, "activations": torch.ones(2, 3)},
        ValueError,
        r"activations: expected \(2, 4\) for C4, got \(2, 3\)",
    ),
    "activation type": (
        {"network": None, "reference": None, "activations": torch.ones(2, 4).long()},
        TypeError,
        "activations: .*int64",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(name):
    options, error, message = BAD[name]
    good = {"x": torch.rand(2, 3, 8, 8), "network": flat, "reference": torch.ones(8), "group": "C4"}
    call = {**good, **options}
    with pytest.raises(error, match=message):
        canonicalize(call.pop("x"), call.pop("network"), call.pop("reference"), **call)
