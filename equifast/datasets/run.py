"""A run over a data set: what is left to do, what is written, and how far it is."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from . import manifest, sources
from .chooser import Chooser
from .pictures import canonical
from .scoring import Choice, Views, scored, why
from .sources import Item


class Share(NamedTuple):
    """Which of several processes this is, and how many there are. Each does every ``size``-th file and archive."""

    rank: int = 0
    size: int = 1


ALONE = Share()


@dataclass
class Counts:
    """What a run did: images that are new copies of their files, those that it turned, and those that are broken."""

    kept: int = 0
    turned: int = 0
    broken: int = 0
    start: float = field(default_factory=time.perf_counter)

    def add(self, choice: Choice, is_turned: bool) -> None:
        self.broken += choice.error is not None
        self.turned += choice.error is None and is_turned
        self.kept += choice.error is None and not is_turned

    @property
    def images(self) -> int:
        return self.kept + self.turned + self.broken

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / max(time.perf_counter() - self.start, 1e-9)


class Finished(NamedTuple):
    """An image with its choice and the content of its output; None where the input can't be read at all."""

    item: Item
    choice: Choice
    content: bytes | None
    is_turned: bool


class Run:
    """Canonicalizes what ``output`` lacks of ``source``.

    An output appears at once, by a move. After it comes its line in the manifest, so an image without a line is done
    anew, and one with a line is not. See `manifest`.

    Args:
        source: a folder, or an archive.
        output: a folder outside of ``source``.
        batch_size: images that the network scores at once.
        workers: processes that read and decode, and threads that turn and encode; 0 for none but this one.

    Raises:
        ValueError: where there is nothing to do it with, or the output belongs to another run.
    """

    def __init__(
        self,
        source: Path,
        output: Path,
        chooser: Chooser,
        views: Views,
        *,
        batch_size: int = 32,
        workers: int = 0,
        share: Share = ALONE,
        settings: manifest.Line | None = None,
    ) -> None:
        if output.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"OUT: expected a folder outside of {source}, got {output}")
        self.found = sources.find(source)
        self.output, self.chooser, self.views, self.share = output, chooser, views, share
        self.batch_size, self.workers = batch_size, workers
        self.settings = settings or {}
        self.counts = Counts()
        self._headers: dict[Path, list[tarfile.TarInfo] | str] = {}

    def __call__(self) -> Counts:
        """Do it, with a bar of progress in the first process."""
        manifest.keep_settings(self.output, self.settings)
        self.journal = manifest.Journal(self.output, self.share.rank)
        if self.share.rank == 0:
            manifest.repair(self.output, self.share.size)
        done = manifest.done(self.output)
        images = [item for item in self._own(self.found.images) if item.name not in done]
        archives = [name for name in self._own(list(self.found.archives)) if not self._is_done(name, done)]
        paths = [item.path for item in images] + [str(self.found.archives[name]) for name in archives]
        title = f"process 1 of {self.share.size}" if self.share.size > 1 else "canonicalizing"
        total = sum(map(_size, paths))
        with (
            ThreadPoolExecutor(max(self.workers, 1)) as self.pool,
            tqdm(
                total=total, desc=title, unit="B", unit_scale=True, ncols=110, disable=self.share.rank > 0
            ) as self.bar,
        ):
            for batch in self._scored(images):
                for finished in self.pool.map(self._write, *zip(*batch, strict=True)):
                    self._count(finished)
            stream = self._finished(archives)
            for name in archives:
                self._write_archive(name, stream)
        self.journal.close()
        return self.counts

    def _own(self, everything: list) -> list:
        """The share of this process, which does not depend on what is done: others may be writing."""
        return everything[self.share.rank :: self.share.size]

    def _is_done(self, archive: str, done: set[str]) -> bool:
        return archive in done or manifest.archive_lines(self.output / archive).exists()

    def _scored(self, items: Iterable[Item]) -> Iterator[list[tuple[Item, Choice]]]:
        return scored(items, self.views, self.chooser, self.batch_size, self.workers)

    def _finish(self, item: Item, choice: Choice) -> Finished:
        """What is to be written for an image: if it is broken, its file as it is."""
        try:
            raw = item.read()
        except OSError as error:
            return Finished(item, Choice(error=why(error)), None, False)
        if choice.error is not None:
            return Finished(item, choice, raw, False)
        try:
            content = canonical(raw, choice.element, self.chooser.group)
        except Exception as error:  # Pillow raises what its encoders do, of many kinds
            return Finished(item, Choice(error=why(error)), raw, False)
        return Finished(item, choice, content, content is not raw)

    def _write(self, item: Item, choice: Choice) -> Finished:
        finished = self._finish(item, choice)
        if finished.content is not None:
            manifest.write(self.output / item.name, finished.content)
        self.journal.append(finished.choice.line(item))
        return finished

    def _finished(self, archives: list[str]) -> Iterator[Finished]:
        """Every image of all archives, in their order."""
        items = (item for name in archives for item in self._items(self.found.archives[name]))
        for batch in self._scored(items):
            yield from self.pool.map(self._finish, *zip(*batch, strict=True))

    def _items(self, archive: Path) -> Iterator[Item]:
        headers = self._headers_of(archive)
        if not isinstance(headers, str):
            yield from (item for member in headers if (item := sources.item_of(archive, member)))

    def _headers_of(self, archive: Path) -> list[tarfile.TarInfo] | str:
        """The members of an archive, or why it can't be read. The reader and the writer each ask once."""
        if archive in self._headers:
            return self._headers.pop(archive)
        try:
            found: list[tarfile.TarInfo] | str = sources.members(archive)
        except (tarfile.TarError, OSError) as error:
            found = why(error)
        self._headers[archive] = found
        return found

    def _write_archive(self, name: str, stream: Iterator[Finished]) -> None:
        """An archive with the same members in the same order. Those that are no images are copied."""
        path, output = self.found.archives[name], self.output / name
        headers = self._headers_of(path)
        if isinstance(headers, str):
            self.journal.append({"file": name, "error": headers})
            self.counts.broken += 1
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished, lines, seen = manifest.unfinished_of(output), [], 0
        with tarfile.open(path, "r:") as source, tarfile.open(unfinished, "w") as target:
            for member in headers:
                if sources.item_of(path, member) is None:
                    target.addfile(member, source.extractfile(member) if member.isreg() else None)
                    continue
                finished = next(stream)
                assert finished.item.name == member.name
                content = finished.content if finished.content is not None else b""
                member.size = len(content)
                member.pax_headers = {key: text for key, text in member.pax_headers.items() if key != "size"}
                target.addfile(member, io.BytesIO(content))
                lines.append(finished.choice.line(finished.item))
                seen += finished.item.size
                self._count(finished)
        os.replace(unfinished, output)
        manifest.write(manifest.archive_lines(output), manifest.text(lines))
        self.bar.update(_size(str(path)) - seen)

    def _count(self, finished: Finished) -> None:
        self.counts.add(finished.choice, finished.is_turned)
        self.bar.update(finished.item.size if finished.item.size >= 0 else _size(finished.item.path))
        self.bar.set_postfix_str(f"{self.counts.images} images, {self.counts.rate:.1f}/s", refresh=False)


def _size(path: str) -> int:
    """Bytes of a file; 0 if it has vanished."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
