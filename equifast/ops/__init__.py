"""The ops, one file an op: public function, fallback, fake kernel, autograd and autocast.

Importing this package imports every file, and each file registers its op.
"""

from importlib import import_module
from pkgutil import iter_modules

from ..choice import select as select
from .act import act as act
from .contrastive_loss import contrastive_loss as contrastive_loss
from .crop_resize import crop_resize as crop_resize
from .orbit import orbit as orbit
from .orbit_average import orbit_average as orbit_average
from .orbit_conv2d import orbit_conv2d as orbit_conv2d
from .orbit_conv2d_pool import orbit_conv2d_pool as orbit_conv2d_pool
from .orbit_linear_scores import orbit_linear_scores as orbit_linear_scores
from .orbit_logit_scores import orbit_logit_scores as orbit_logit_scores
from .orbit_losses import orbit_losses as orbit_losses
from .orbit_scores import orbit_scores as orbit_scores
from .registry import decompositions as decompositions

# An op without a public function is registered here.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
