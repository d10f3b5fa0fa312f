"""The emulation itself, and what sanitizers see. Its process is its own, as `backend` says; others don't collect it."""

from .. import backend

collect_ignore_glob = [] if backend.NAME == "emulation" else ["test_*.py"]
