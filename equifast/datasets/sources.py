"""What is in a data set: images in folders, and tar archives in the manner of WebDataset."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Images by what their names end with: formats that Pillow reads and writes.
EXTENSIONS = (
    (".bmp", ".gif", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff")
    + (".jpeg", ".jpg", ".jp2")
    + (".avif", ".webp")
)


class Item(NamedTuple):
    """One image: its name below the input or within its archive, and where its bytes are."""

    name: str
    path: str
    offset: int = 0
    size: int = -1  # to the end of the file

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            raw = file.read(self.size)
        if self.size >= 0 and len(raw) < self.size:
            raise OSError(f"expected {self.size} bytes, got {len(raw)}")
        return raw


class Found(NamedTuple):
    """What `find` found: images that are files, and archives by their path below the input."""

    images: list[Item]
    archives: dict[str, Path]


def find(source: Path) -> Found:
    """All images and archives in a folder and below it, in the order of their names; or the one archive itself.

    Links to folders are not followed.

    Raises:
        ValueError: if there is nothing at ``source``, or nothing of these.
    """
    if source.is_file() and source.suffix == ".tar":
        return Found([], {source.name: source})
    if not source.is_dir():
        raise ValueError(f"IN: expected a folder or a .tar archive, got {source}")
    names = sorted(_files(source))
    found = Found(
        [Item(name, str(source / name)) for name in names if is_image(name)],
        {name: source / name for name in names if name.endswith(".tar")},
    )
    if not found.images and not found.archives:
        raise ValueError(f"IN: expected images or .tar archives, found none in {source}")
    return found


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def members(archive: Path) -> list[tarfile.TarInfo]:
    """The headers of an archive, without its contents.

    Raises:
        tarfile.TarError, OSError: if it is broken, cut off or compressed, or has sparse files.
    """
    with tarfile.open(archive, "r:") as opened, open(archive, "rb") as file:
        found = opened.getmembers()
        file.seek(opened.offset)
        # tarfile takes a header that is cut off for the end.
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.TarError("expected the mark of the end of an archive")
    if any(member.issparse() for member in found):
        raise tarfile.TarError("expected no sparse files")
    return found


def item_of(archive: Path, member: tarfile.TarInfo) -> Item | None:
    """The image that a member of an archive is, or None if it is something else."""
    if not member.isreg() or not is_image(member.name):
        return None
    return Item(member.name, str(archive), member.offset_data, member.size)


def _files(folder: Path) -> Iterator[str]:
    """Every file in a folder and below it, by its path from there. Unfinished outputs have hidden names."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith("."):
                yield Path(parent, name).relative_to(folder).as_posix()
