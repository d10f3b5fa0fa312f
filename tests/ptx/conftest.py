"""The executor and what it catches. Its process is one that AddressSanitizer watches (`__main__`)."""

from .. import backend
from ..emulation.build import PTX

collect_ignore_glob = [] if backend.EMULATED == PTX else ["test_*.py"]
