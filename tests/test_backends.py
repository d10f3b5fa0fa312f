import pytest
import torch

from equifast import backends
from equifast.backends import Backend


@pytest.fixture
def table(monkeypatch):
    """Two backends in place of the real ones: `fast` serves only CPU tensors, and not while it is broken."""

    def install(broken=None):
        rows = (Backend("fast", ("cpu",), lambda: broken), Backend("plain", None, lambda: None))
        monkeypatch.setattr(backends, "BACKENDS", rows)

    monkeypatch.delenv("EQUIFAST_BACKEND", raising=False)
    install()
    return install


@pytest.mark.parametrize("value", [None, "", "auto"])
def test_auto_takes_the_first_usable(table, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("EQUIFAST_BACKEND", value)
    assert backends.choose("cpu") == "fast"
    assert backends.choose("cuda") == "plain"
    table(broken="not built")
    assert backends.choose("cpu") == "plain"


def test_a_forced_backend_is_taken(table, monkeypatch):
    monkeypatch.setenv("EQUIFAST_BACKEND", "plain")
    assert backends.choose("cpu") == "plain"


def test_a_forced_backend_that_is_broken_raises_its_reason(table, monkeypatch):
    table(broken="no compiler that day")
    monkeypatch.setenv("EQUIFAST_BACKEND", "fast")
    with pytest.raises(RuntimeError, match="EQUIFAST_BACKEND=fast can't run cpu tensors: no compiler that day"):
        backends.choose("cpu")


def test_a_forced_backend_refuses_other_devices(table, monkeypatch):
    monkeypatch.setenv("EQUIFAST_BACKEND", "fast")
    with pytest.raises(RuntimeError, match="can't run cuda tensors: it serves cpu tensors, not cuda"):
        backends.choose("cuda")


@pytest.mark.parametrize("value", ["fats", "FAST", " fast"])
def test_an_unknown_backend_names_the_choices(table, monkeypatch, value):
    monkeypatch.setenv("EQUIFAST_BACKEND", value)
    with pytest.raises(ValueError, match=f"EQUIFAST_BACKEND: expected one of auto, fast, plain, got '{value}'"):
        backends.choose("cpu")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if both backends for GPUs could run, but for the one that is broken."""

    def install(broken=()):
        rows = [Backend(n, ("cuda",), lambda n=n: "broken" if n in broken else None) for n in ("cuda", "triton")]
        monkeypatch.setattr(backends, "BACKENDS", (*rows, Backend("reference", None, lambda: None)))

    monkeypatch.delenv("EQUIFAST_BACKEND", raising=False)
    install()
    return install


def test_cuda_and_triton_compete_where_both_can_run(on_a_gpu, monkeypatch):
    assert backends.choose("cuda") == "cuda" and backends.contenders("cuda") == ("cuda", "triton")
    assert backends.contenders("cpu") == ("reference",)
    for broken, left in (("cuda", "triton"), ("triton", "cuda")):
        on_a_gpu([broken])
        assert backends.contenders("cuda") == (left,)
    on_a_gpu()
    for forced in ("cuda", "triton", "reference"):
        monkeypatch.setenv("EQUIFAST_BACKEND", forced)
        assert backends.contenders("cuda") == (forced,)


def test_a_forced_cuda_is_never_replaced(on_a_gpu, monkeypatch):
    on_a_gpu(["cuda"])
    monkeypatch.setenv("EQUIFAST_BACKEND", "cuda")
    with pytest.raises(RuntimeError, match="EQUIFAST_BACKEND=cuda can't run cuda tensors: broken"):
        backends.contenders("cuda")


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA here")
def test_cuda_is_not_usable_without_cuda():
    reason = backends.available()["cuda"]
    assert "_cuda.so was not built: " in reason or "was built without CUDA" in reason


def test_available_reports_every_backend(table):
    assert backends.available() == {"fast": None, "plain": None}
    table(broken="not built")
    assert backends.available() == {"fast": "not built", "plain": None}


def test_the_reference_runs_everywhere():
    reference = backends.BACKENDS[-1]
    assert reference.name == "reference"
    assert all(reference.why_not(device) is None for device in ("cpu", "cuda", "mps"))
