"""The ops: public function, fallback, fake kernel, autograd and autocast of each, one file an op."""

from ..reference import select
from .act import act
from .contrastive_loss import contrastive_loss
from .orbit import orbit
from .orbit_average import orbit_average
from .orbit_conv2d import orbit_conv2d
from .orbit_conv2d_pool import orbit_conv2d_pool
from .orbit_linear_scores import orbit_linear_scores
from .orbit_losses import orbit_losses
from .orbit_scores import orbit_scores

__all__ = [
    "act",
    "contrastive_loss",
    "orbit",
    "orbit_average",
    "orbit_conv2d",
    "orbit_conv2d_pool",
    "orbit_linear_scores",
    "orbit_losses",
    "orbit_scores",
    "select",
]
