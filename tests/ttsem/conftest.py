"""What ttsem catches. Its process is its own, as `backend` says; others don't collect it."""

from .. import backend

collect_ignore_glob = [] if backend.EMULATED == backend.TTSEM else ["test_*.py"]
