"""Names of equiadapt's canonicalizers over continuous groups. They aren't provided: building one raises an error.

equiadapt's own training code imports them beside those it uses, so the names have to exist.
"""

from ...common.basecanonicalization import ContinuousGroupCanonicalization


class ContinuousGroupImageCanonicalization(ContinuousGroupCanonicalization):
    """Not provided."""


class SteerableImageCanonicalization(ContinuousGroupImageCanonicalization):
    """Not provided."""


class OptimizedSteerableImageCanonicalization(ContinuousGroupImageCanonicalization):
    """Not provided."""
