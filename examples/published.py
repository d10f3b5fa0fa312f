"""Results of an example: kept as JSON, shown as a table, and published in a section of a page of the documentation."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "real_pictures.md"


def save(name: str, results: dict) -> None:
    """Keep results beside the examples, one line for each run."""
    RESULTS.mkdir(exist_ok=True)
    runs = ",\n".join(json.dumps(run, ensure_ascii=False) for run in results["runs"])
    rest = json.dumps({key: value for key, value in results.items() if key != "runs"}, ensure_ascii=False, indent=1)
    (RESULTS / f"{name}.json").write_text(f'{rest[:-2]},\n "runs": [\n{runs}\n]}}\n')


def load(name: str) -> dict:
    """Results as `save` kept them."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def publish(name: str, text: str, page: Path = PAGE) -> None:
    """Put a text into its section of the page: between two comments with that name."""
    page.write_text(insert(page.read_text(), name, text))


def insert(page: str, name: str, text: str) -> str:
    """The page with another text in the section of that name."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    changed, times = re.subn(f"{start}.*?{end}", lambda _: f"{start}\n{text}\n\n{end}", page, flags=re.DOTALL)
    if times != 1:
        raise ValueError(f"page: expected one section between {start.strip()} and {end}, got {times}")
    return changed


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown that is lined up in plain text as well: the first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        _line(head, widths),
        "|:" + "-" * (widths[0] + 1) + "|" + "|".join("-" * (w + 1) + ":" for w in widths[1:]),
    ]
    return "\n".join([*lines[:1], lines[1] + "|", *(_line(row, widths) for row in rows)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join([first, *rest]) + " |"
