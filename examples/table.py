"""The demo's table."""

from typing import NamedTuple

from timing import Times

VIEWS = ["0°", "90°", "180°", "270°", "mirrored"]


class Row(NamedTuple):
    """One line: accuracy in percent in each of the views; identity rate and times where there is a canonicalizer."""

    name: str
    accuracy: list[float]
    identity: float | None = None
    times: Times | None = None

    @property
    def mean(self) -> float:
        """C4-average accuracy: over the four rotations."""
        return sum(self.accuracy[:4]) / 4


def table(title: str, rows: list[Row]) -> str:
    """Rows under a title, as plain text of at most 110 columns."""
    head = f"{'':27}" + "".join(f"{view:>7}" for view in VIEWS[:4]) + f"{VIEWS[4]:>10}{'C4 mean':>9}"
    head += f"{'identity':>10}{'ms/image':>10}{'eager':>7}{'around':>9}{'eager':>7}"
    return "\n".join([title, head, *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    text = f"{row.name:27}" + "".join(f"{value:7.2f}" for value in row.accuracy[:4])
    text += f"{row.accuracy[4]:10.2f}{row.mean:9.2f}"
    text += f"{'–':>10}" if row.identity is None else f"{row.identity:10.3f}"
    if row.times is None:
        return text + f"{'–':>10}{'–':>7}{'–':>9}{'–':>7}"
    whole, whole_ratio, rest, rest_ratio = row.times
    return text + f"{whole:10.2f}{_times(whole_ratio):>7}{rest:9.3f}{_times(rest_ratio):>7}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×"


LEGEND = """\
accuracy in %; identity: share of upright images left as they are; ms/image: canonicalization with its network,
around: without the network; eager: how many times longer plain PyTorch takes, in the same run"""
