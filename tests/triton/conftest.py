"""Kernels in Triton's interpreter, which must be chosen before Triton is imported: so they have a process of their own,
``TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton pytest tests/triton`` (`make test` runs it), and are unseen in any other.
"""

import pytest

from benchmarks.gpu import interpreted
from equifast import backends

collect_ignore_glob = [] if backends.INTERPRETING else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def patched_interpreter():
    interpreted.patch()
