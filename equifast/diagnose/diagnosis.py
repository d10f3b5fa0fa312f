"""What `diagnose` returns, as numbers, as text and as a picture."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from . import page
from .findings import Findings


@dataclass(eq=False)
class Diagnosis(Findings):
    """What `diagnose` found: the attributes of `Findings`. ``print`` shows them as tables in Markdown."""

    def to_dict(self) -> dict[str, object]:
        """All figures as dictionaries, lists, numbers and strings, which ``json.dumps`` takes; None for NaN.

        Beside the attributes it has ``elements``, the names of the elements, and `leaks`.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        found = {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in values.items()}
        lists = {name: value and list(value) for name, value in found.items() if name in ("exact", "notes", "classes")}
        return {**found, **lists, "group": self.group.name, "elements": page.names(self.group), "leaks": self.leaks}

    def __str__(self) -> str:
        return page.text(self)

    def plot(self, path: str | Path) -> None:
        """Draw it: answers over the angles, chosen elements, and the worst images with their orbits.

        Args:
            path: of the file, whose name tells the format, such as PNG, PDF or SVG.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ImportError("plot needs the package matplotlib: pip install matplotlib") from error
        from . import picture

        picture.draw(self, Path(path))
