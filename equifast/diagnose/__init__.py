"""Is a model rotation-proof, and what would canonicalization change? `equifast.diagnose`, and the command of that name.

``python -m equifast.diagnose FOLDER --network …`` writes a page, a picture and a JSON file (docs/diagnose.md).
"""

from .diagnosis import Diagnosis
from .measure import diagnose

__all__ = ["Diagnosis", "diagnose"]
