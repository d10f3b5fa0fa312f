"""Which GPU backend runs a call: the table, the default, and what the dispatcher is given. No GPU needed."""

import json
import re
from pathlib import Path

import pytest
import torch

from equifast import kernels, selection
from equifast.ops import _library

from .cases import samples

ROOT = Path(__file__).resolve().parents[1]
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Installs rows in place of the file's; the decisions of one test aren't there for the next."""

    def forget():
        selection.table.cache_clear()
        selection._decide.cache_clear()

    def install(*rows):
        path = tmp_path / "selection.json"
        path.write_text(json.dumps({"rows": [row(*r) for r in rows]}))
        monkeypatch.setattr(selection, "load", lambda path=path: json.loads(path.read_text())["rows"])
        forget()
        return path

    install()
    yield install
    forget()


@pytest.fixture
def tf32(monkeypatch):
    def allow(yes):
        monkeypatch.setattr(selection, "allows_tf32", lambda dtype: yes and dtype == torch.float32)

    allow(False)
    return allow


def row(op, dtype, name, backend, ratio=1.2):
    keys = {"op": op, "dtype": dtype, "class": name, "backend": backend}
    return keys | {"ratio": ratio, "device": "a GPU", "commit": "abc"}


def images(size, dtype=torch.float32):
    return (torch.empty(2, 3, size, size, dtype=dtype, device="meta"), None)


def layer(channels, dtype=torch.float32):
    return images(32, dtype)[0], torch.empty(channels, 3, 7, 7, dtype=dtype, device="meta"), None


def test_a_measured_row_decides_for_its_class_only(table, tf32):
    table(("orbit", "float32", "256x256", "triton"))
    assert selection.choose("orbit", images(224)) == "triton"
    for args in (images(64), images(257), images(224, torch.bfloat16)):
        assert selection.choose("orbit", args) == "cuda"
    assert selection.choose("act", images(224)) == "cuda"


@pytest.mark.parametrize(("size", "name"), [(1, "64x64"), (64, "64x64"), (65, "256x256"), (256, "256x256")])
def test_limits_belong_to_the_class_they_end(size, name):
    assert selection.PIXELS((2, 3, size, size)) == name
    assert selection.PIXELS((2, 3, 1, size**2)) == name
    assert selection.PIXELS((2, 3, 257, 256)) == "larger"


def test_defaults_are_cuda_but_for_wide_layers_on_matrix_units(table, tf32):
    for dtype in DTYPES:
        for op in ("orbit_conv2d", "orbit_conv2d_backward"):
            for channels, backend in ((16, "cuda"), (64, "cuda"), (65, "triton"), (768, "triton")):
                args = layer(channels, dtype)
                args = args if op == "orbit_conv2d" else (args[0], *args)
                assert selection.choose(op, args) == (backend if dtype.itemsize == 2 else "cuda")
        assert selection.choose("orbit", images(1024, dtype)) == "cuda"


def test_tf32_is_a_kind_of_its_own(table, tf32):
    table(("orbit_conv2d", "tf32", "16 channels", "triton"), ("orbit", "tf32", "64x64", "triton"))
    assert selection.choose("orbit_conv2d", layer(16)) == "cuda"
    tf32(True)
    assert selection.choose("orbit_conv2d", layer(16)) == "triton"
    assert selection.choose("orbit_conv2d", layer(16, torch.bfloat16)) == "cuda"
    assert selection.choose("orbit", images(32)) == "cuda"


def test_every_op_of_the_library_is_chosen_for(table):
    """From the arguments that its schema gives it."""
    chosen = set()
    for sample in samples(torch.float32):
        if sample.op in selection.OPS:
            assert selection.choose(sample.op, sample.args) == "cuda"
            assert sample.args[selection.OPS[sample.op].argument].dim() >= 2
            chosen.add(sample.op)
    assert chosen == set(selection.OPS) and chosen <= set(kernels.FILES)


@pytest.mark.skipif(not (ROOT / "csrc/cuda/ops").exists(), reason="needs the source tree")
def test_the_library_implements_these_ops():
    text = "".join(file.read_text() for file in (ROOT / "csrc/cuda/ops").glob("*.cpp"))
    assert set(re.findall(r'\{"(\w+)", TORCH_BOX', text)) == set(selection.OPS)


def test_an_op_without_a_cuda_kernel_is_unknown():
    with pytest.raises(KeyError, match="orbit_conv2d_pool"):
        selection.choose("orbit_conv2d_pool", layer(16))


def test_an_unknown_class_is_never_looked_up(table):
    table(("orbit", "float32", "huge", "triton"))
    assert {selection.choose("orbit", images(n)) for n in (8, 100, 2000)} == {"cuda"}
    assert "0 of 12 measured" in selection.explain()["orbit"]


def test_explain_counts_rows_and_tells_the_rule(table):
    table(("orbit", "float32", "64x64", "triton"), ("orbit", "float16", "64x64", "cuda"))
    found = selection.explain()
    assert found["orbit"] == "2 of 12 measured; cuda in 1, triton in 1; else cuda"
    assert found["act"] == "0 of 12 measured; else cuda"
    assert found["orbit_conv2d"].startswith("0 of 15 measured; else cuda, but triton for more than 64")


def test_the_data_file():
    for found in selection.load():
        assert set(found) == {"op", "dtype", "class", "backend", "ratio", "device", "commit"}
        assert found["op"] in selection.OPS and found["backend"] in ("cuda", "triton")
        assert found["class"] in selection.OPS[found["op"]].scale.names
        assert found["dtype"] in selection.dtypes(found["op"]) and found["ratio"] >= 1


def test_rows_measured_anew_replace_the_old_ones(tmp_path):
    path = tmp_path / "selection.json"
    path.write_text('{"rows": []}')
    selection.store([], path)
    assert selection.load(path) == []
    first, other = row("orbit", "float32", "64x64", "cuda"), row("act", "float32", "64x64", "cuda")
    selection.store([first, other], path)
    selection.store([first | {"backend": "triton"}], path)
    assert selection.load(path) == [other, first | {"backend": "triton"}]


@pytest.fixture
def ways(monkeypatch, table, tf32):
    """Backends that say which of them ran, in place of the real ones; what `_library` makes of those named."""
    monkeypatch.setattr(_library.kernels, "load", lambda name: lambda *args: ("triton", name, args))

    class Op:
        def __init__(self, name):
            self.default = lambda *args: ("cuda", name, args)

    class Library:
        __getattr__ = staticmethod(Op)

    monkeypatch.setattr(torch.ops, "equifast_cuda", Library(), raising=False)
    return _library.ways_of


def test_the_dispatcher_gets_what_is_selected(ways, table):
    table(("orbit", "float32", "64x64", "triton"))
    call = _library._selected("orbit", ways("orbit", ("cuda", "triton")))
    assert call(*images(64))[:2] == ("triton", "orbit")
    assert call(*images(100))[:2] == ("cuda", "orbit")


def test_backends_called_elsewhere_and_ops_they_lack_are_no_ways(ways):
    assert set(ways("orbit", ("cuda", "triton"))) == {"cuda", "triton"}
    assert set(ways("orbit", ("cuda",))) == {"cuda"}
    assert set(ways("orbit_conv2d_pool", ("cuda", "triton"))) == {"triton"}
    assert ways("orbit_conv2d_pool", ("cuda",)) == ways("orbit", ("cpu",)) == ways("orbit", ()) == {}


@pytest.mark.parametrize("allowed", [False, True])
def test_cuda_layers_are_told_of_tf32(ways, tf32, allowed):
    tf32(allowed)
    (run,) = ways("orbit_conv2d", ("cuda",)).values()
    assert run(*layer(16))[2][-1] is allowed
    (run,) = ways("orbit", ("cuda",)).values()
    assert len(run(*images(16))[2]) == 2
