"""Which configurations of the Triton kernels were the fastest, kept on disk from one process to the next.

They are in one JSON file, ``tuned.json`` in the folder `EQUIFAST_CACHE_DIR`, by default ``equifast`` in the user's
cache folder. The file may be deleted. Where it can't be written, every process times the configurations itself.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path

#: Configurations by kernel and tuning key, by device and versions.
Choices = dict[str, dict[str, str]]


def path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EQUIFAST_CACHE_DIR") or Path(cache) / "equifast") / "tuned.json"


def load() -> Choices:
    try:
        found = json.loads(path().read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home
        return {}
    return found if isinstance(found, dict) else {}


def store(device: str, title: str, configuration: str) -> None:
    """Add one choice to those that other processes may have stored meanwhile. A reader never sees half a file."""
    with contextlib.suppress(OSError, RuntimeError):
        file = path()
        file.parent.mkdir(parents=True, exist_ok=True)
        choices = load()
        choices.setdefault(device, {})[title] = configuration
        handle, draft = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as out:
            json.dump(choices, out, indent=1, sort_keys=True)
        os.replace(draft, file)
