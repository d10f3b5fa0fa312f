"""What only Triton's interpreter can be asked. Its process is its own, as `backend` says; others don't collect it."""

from .. import backend

collect_ignore_glob = [] if backend.NAME == "interpreter" else ["test_*.py"]
