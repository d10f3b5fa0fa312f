"""Which backend runs on which GPU, with GPUs, drivers and a torch for CUDA that aren't there."""

import ctypes

import pytest
import torch

from equifast import backends
from equifast.backends import gpus, native

ARCHS = ["80", "90-real", "100-real", "120"]


@pytest.fixture
def computer(monkeypatch):
    """Pretends: GPUs of these compute capabilities, a torch for CUDA, and a `_cuda.so` that loads."""

    def install(*capabilities, driver=(13, 0), nvml=True, archs=ARCHS, nvcc="13.0.48"):
        found = gpus.Machine(driver, capabilities) if nvml else None
        monkeypatch.setattr(gpus, "machine", lambda: found)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
        monkeypatch.setattr(backends, "INTERPRETING", False)
        monkeypatch.setattr(backends.metadata, "version", lambda name: "3.6.0")
        monkeypatch.setattr(native, "cuda_error", lambda: None)
        monkeypatch.setattr(native, "build_info", lambda: {"cuda": {"nvcc": nvcc, "archs": archs}})

    monkeypatch.delenv("EQUIFAST_BACKEND", raising=False)
    return install


@pytest.mark.parametrize(
    ("arch", "runs", "fails"),
    [
        ("80-real", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (12, 0)]),
        ("86-real", [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        ("86", [(8, 6), (9, 0), (12, 1)], [(8, 0), (7, 5)]),
        ("90a-real", [(9, 0)], [(9, 1), (10, 0)]),
        ("90a", [(9, 0)], [(10, 0)]),
        ("100f", [(10, 0), (10, 3)], [(12, 0), (9, 0)]),
    ],
)
def test_code_for_an_architecture_runs_on_these_gpus(arch, runs, fails):
    assert all(gpus.runs_on(arch, gpu) for gpu in runs)
    assert not any(gpus.runs_on(arch, gpu) for gpu in fails)


def test_ptx_needs_a_driver_of_its_version():
    assert not gpus.runs_on("80", (9, 0), ptx=False) and gpus.runs_on("80", (8, 9), ptx=False)


@pytest.mark.parametrize("nvml", [True, False])
def test_each_gpu_takes_the_first_backend_that_runs_on_it(computer, nvml):
    for capability in ((8, 0), (8, 6), (9, 0), (10, 3), (12, 0)):
        computer(capability, nvml=nvml)
        assert backends.contenders("cuda") == ("cuda", "triton")
    computer((8, 0), nvml=nvml, archs=["90-real"])
    assert backends.contenders("cuda") == ("triton",)
    computer((7, 5), nvml=nvml)
    assert backends.contenders("cuda") == ("reference",)
    computer(nvml=nvml)
    assert backends.contenders("cuda") == ("reference",)


def test_reasons_name_the_gpu_and_the_build(computer):
    computer((7, 5))
    found = backends.available()
    built = "_cuda.so was built by nvcc 13.0.48 for 80, 90-real, 100-real, 120"
    assert found["cuda"] == f"{built}, and a GPU here has compute capability 7.5"
    assert found["triton"] == "Triton needs compute capability 8.0 or newer, and a GPU here has 7.5"
    computer((9, 0), driver=(12, 8))
    assert backends.available()["cuda"] == f"{built}, and the driver supports CUDA 12.8 at most"
    computer()
    assert backends.available()["cuda"] == "torch finds no CUDA device"


def test_an_older_driver_of_the_same_cuda_runs_machine_code_but_no_ptx(computer):
    computer((9, 0), driver=(13, 0), nvcc="13.2.1", archs=["80", "90-real"])
    assert backends.choose("cuda") == "cuda"
    computer((9, 0), driver=(13, 0), nvcc="13.2.1", archs=["80"])
    assert backends.choose("cuda") == "triton"


def test_torch_is_asked_only_where_gpus_differ(computer, monkeypatch):
    computer((9, 0), (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: pytest.fail("this would start CUDA"))
    assert gpus.capabilities() == {(9, 0)}
    computer((9, 0), (7, 5))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # as CUDA_VISIBLE_DEVICES=0 would
    assert gpus.capabilities() == {(9, 0)}


def test_a_gpu_that_does_not_start_is_a_reason(computer, monkeypatch):
    def broken(index):
        raise RuntimeError("CUDA driver initialization failed\non purpose")

    computer((9, 0), nvml=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", broken)
    reason = "CUDA can't be started: CUDA driver initialization failed on purpose"
    assert backends.available()["cuda"] == backends.available()["triton"] == reason


@pytest.mark.parametrize(("nvcc", "refused"), [("13.0.48", True), ("12.9.41", False)])
def test_a_library_of_another_cuda_is_not_loaded(monkeypatch, tmp_path, nvcc, refused):
    (tmp_path / "_cuda.so").write_bytes(b"not a shared library")
    monkeypatch.setattr(native, "PACKAGE", tmp_path)
    monkeypatch.setattr(native, "build_info", lambda: {"cuda": {"nvcc": nvcc, "archs": ARCHS}})
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    reason = native.cuda_error.__wrapped__()
    expected = f"_cuda.so was built by nvcc 13.0.48, and torch {torch.__version__} has CUDA 12.8"
    assert (reason == expected) == refused and ("can't be loaded" in reason) != refused


class Nvml:
    """The functions of NVML that are called, for GPUs of these compute capabilities."""

    def __init__(self, *capabilities, failing=()):
        self.capabilities, self.failing = capabilities, failing

    def __getattr__(self, name):
        return lambda *args: 3 if name in self.failing else getattr(Nvml, f"_{name}")(self, *args) or 0

    def _nvmlInit_v2(self):
        pass

    def _nvmlSystemGetCudaDriverVersion_v2(self, version):
        version._obj.value = 12090

    def _nvmlDeviceGetCount_v2(self, count):
        count._obj.value = len(self.capabilities)

    def _nvmlDeviceGetHandleByIndex_v2(self, index, device):
        device._obj.value = index + 1

    def _nvmlDeviceGetCudaComputeCapability(self, device, major, minor):
        major._obj.value, minor._obj.value = self.capabilities[device.value - 1]


CALLED = [name[1:] for name in vars(Nvml) if name.startswith("_nvml")]


def test_nvml_tells_driver_and_gpus(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Nvml((9, 0), (7, 5)))
    assert gpus.machine.__wrapped__() == ((12, 9), ((9, 0), (7, 5)))


@pytest.mark.parametrize("name", CALLED)
def test_an_nvml_that_fails_tells_nothing(monkeypatch, name):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Nvml((9, 0), failing=[name]))
    assert gpus.machine.__wrapped__() is None


def test_a_machine_without_nvml_tells_nothing(monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert gpus.machine.__wrapped__() is None
