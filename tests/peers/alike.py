"""Images and settings for which equiadapt and the stand-ins agree."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

GROUPS = [4, 6, 8]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def smooth(count, shape, seed=1):
    coarse = torch.rand(count, shape[0], 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, shape[1:], mode="bicubic")


def settings(n, **changes):
    """Crops and resizes that have the centre of the image for their own; see the page for others."""
    defaults = {"beta": 2.0, "input_crop_ratio": 0.75, "resize_shape": 32, "learn_ref_vec": True, "artifact_err_wt": 0}
    return SimpleNamespace(**{"group_type": "rotation", "num_rotations": n, **defaults, **changes})
