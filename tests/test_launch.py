"""How kernels are launched, on a GPU that isn't there: what is kept, what is timed, and when it is not."""

import pytest
import torch
import triton
import triton.language as tl

from equifast import as_group
from equifast.kernels import load
from equifast.kernels.host import launch, tuned
from equifast.kernels.host.launch import Config, Kernel, Problem
from equifast.kernels.host.sizes import ceil_div

from .fake_gpu import FakeGpu


@triton.jit
def _scale_kernel(out, x, factor, n, power: tl.float64, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0) * power
    if factor is not None:
        value *= tl.load(factor)
    tl.store(out + i, value, mask=i < n)


CONFIGS = [Config({"BLOCK": 128}), Config({"BLOCK": 256}, warps=8), Config({"BLOCK": 64}, warps=2)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nobody's own choices are read or written; nor what another test left in memory."""
    monkeypatch.setenv("EQUIFAST_CACHE_DIR", str(tmp_path))
    launch._tuned_before.cache_clear()
    launch._device_and_versions.cache_clear()
    return tmp_path


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(launch, "KERNELS", dict(launch.KERNELS))
    return Kernel(_scale_kernel)


@pytest.fixture
def tuning(monkeypatch):
    monkeypatch.setattr(launch, "_may_tune", lambda device: True)


def scale(kernel, n=1000, configs=CONFIGS, factor=None, tuning_key=(), key=None, power=1.0):
    """Launches once; how many problems had to be worked out."""
    asked = []

    def problem():
        asked.append(n)
        return Problem(lambda c: ceil_div(n, c["BLOCK"]), (n,), {}, configs, tuning_key)

    out, x = torch.empty(n), torch.empty(n)
    kernel.launch(n if key is None else key, (out, x, factor), problem, (power,))
    return len(asked)


def blocks(gpu):
    """BLOCK of the last launch, after its five arguments."""
    return gpu.launches[-1].args[5]


def test_a_problem_is_worked_out_once(kernel):
    with FakeGpu().installed() as gpu:
        assert [scale(kernel, configs=CONFIGS[:1]) for _ in range(3)] == [1, 0, 0]
        assert [launch.grid for launch in gpu.launches] == [(8, 1, 1)] * 3
        assert scale(kernel, n=2000, configs=CONFIGS[:1]) == 1
        assert gpu.launches[-1].args[3:] == (2000, 1.0, 128)


def test_reals_change_without_a_new_problem(kernel):
    """A temperature that is annealed compiles nothing and keeps nothing."""
    with FakeGpu().installed() as gpu:
        assert [scale(kernel, configs=CONFIGS[:1], power=power) for power in (1.0, 1.7, 0.3)] == [1, 0, 0]
        assert [launch.args[4] for launch in gpu.launches] == [1.0, 1.7, 0.3]
        assert len({id(launch.metadata) for launch in gpu.launches}) == 1


def test_an_absent_tensor_is_another_problem(kernel):
    with FakeGpu().installed() as gpu:
        assert scale(kernel, configs=CONFIGS[:1]) == 1
        assert scale(kernel, configs=CONFIGS[:1], factor=torch.ones(1)) == 1
        assert gpu.launches[0].args[2] is None and gpu.launches[1].args[2] is not None


def test_alignment_is_part_of_the_problem(kernel):
    """What is compiled for pointers that are multiples of 16 bytes must not be given others."""
    x = torch.empty(1004)

    def launch(start):
        problem = Problem(lambda c: 1, (1000,), {}, CONFIGS[:1])
        kernel.launch("same", (x[start : start + 1000], x[:1000], None), lambda: problem, (1.0,))

    with FakeGpu().installed() as gpu:
        launch(0), launch(1), launch(4)
        functions = [launch.metadata for launch in gpu.launches]
        assert functions[0] is functions[2] and functions[0] is not functions[1]


def test_the_fastest_configuration_is_taken_and_remembered(kernel, tuning, cache):
    def duration(launch):
        return {128: 3.0, 256: 1.0, 64: 2.0}[launch.args[5]]

    with FakeGpu(duration=duration).installed() as gpu:
        scale(kernel, tuning_key=("small",))
        assert blocks(gpu) == 256
        (choices,) = tuned.load().values()
        assert choices == {"scale small": "BLOCK 256, 8 warps, 1 stages"}
        before = len(gpu.launches)
        scale(kernel, n=900, tuning_key=("small",))  # of the same class: no timing
        assert len(gpu.launches) == before + 1 and blocks(gpu) == 256
        scale(kernel, n=901, tuning_key=("odd",))
        assert len(gpu.launches) > before + 3 and len(next(iter(tuned.load().values()))) == 2


def test_another_process_doesnt_time_again(kernel, tuning):
    slow_first = FakeGpu(duration=lambda launch: 1000.0 - launch.args[5])
    with slow_first.installed() as gpu:
        scale(kernel, tuning_key=("small",))
        assert blocks(gpu) == 256
    launch._tuned_before.cache_clear()
    with FakeGpu(duration=lambda launch: launch.args[5]).installed() as gpu:
        scale(kernel, tuning_key=("small",))
        assert len(gpu.launches) == 1 and blocks(gpu) == 256


def test_a_remembered_configuration_that_no_longer_exists_is_timed_anew(kernel, tuning):
    with FakeGpu(duration=lambda launch: launch.args[5]).installed() as gpu:
        tuned.store(launch._device_and_versions(torch.device("cpu")), "scale small", "BLOCK 4096, 4 warps, 1 stages")
        scale(kernel, tuning_key=("small",))
        assert blocks(gpu) == 64


def test_where_nothing_may_be_timed_the_likeliest_runs_until_it_may(kernel, monkeypatch):
    monkeypatch.setattr(launch, "_may_tune", lambda device: False)
    with FakeGpu(duration=lambda launch: 1000.0 - launch.args[5]).installed() as gpu:
        assert [scale(kernel) for _ in range(2)] == [1, 0]
        assert len(gpu.launches) == 2 and blocks(gpu) == 128
        monkeypatch.setattr(launch, "_may_tune", lambda device: True)
        assert scale(kernel) == 1 and blocks(gpu) == 256


def test_when_nothing_is_timed(monkeypatch):
    """On CPUs, under capture, in deterministic mode, or if the user says so."""
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.delenv("EQUIFAST_AUTOTUNE", raising=False)
    torch.use_deterministic_algorithms(False)
    gpu = torch.device("cuda", 0)
    assert launch._may_tune(gpu) and not launch._may_tune(torch.device("cpu"))
    capturing[0] = True
    assert not launch._may_tune(gpu)
    capturing[0] = False
    torch.use_deterministic_algorithms(True)
    assert not launch._may_tune(gpu)
    torch.use_deterministic_algorithms(False)
    monkeypatch.setenv("EQUIFAST_AUTOTUNE", "0")
    assert not launch._may_tune(gpu)


def test_a_configuration_too_large_for_the_device_is_passed_over(kernel, tuning, monkeypatch):
    """Blocks of more than 128 threads don't start on this one, for lack of registers, say."""
    gpu = FakeGpu(duration=lambda launch: 1000.0 - launch.args[5])
    load = gpu.utils.load_binary
    gpu.utils.load_binary = lambda *args: (*load(*args)[:4], 128)
    with gpu.installed():
        scale(kernel)
        assert blocks(gpu) == 128
        monkeypatch.setattr(launch, "_may_tune", lambda device: False)
        scale(kernel, key="another", configs=[CONFIGS[1], CONFIGS[0]])
        assert blocks(gpu) == 128
        with pytest.raises(triton.runtime.errors.OutOfResources):
            scale(kernel, key="a third", configs=CONFIGS[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_sizes_of_one_compile(shape):
    """To the compiler, unlike the interpreter, an argument of 1 is a constant: it has none of a tensor's methods."""
    x, table = torch.empty(1, 1, *shape), list(as_group("C3").action_table(inverse=True))
    weight, options = torch.empty(1, 1, 1, 1), ([1, 1], [0, 0], [1, 1], "border")
    element, vectors = torch.zeros(1, dtype=torch.int64), torch.empty(3, 1)
    with FakeGpu().installed() as gpu:
        for adjoint in (False, True):
            load("orbit")(x, None, table, [], [], "border", adjoint)
            load("act")(x, element, table, [], [], "zeros", adjoint)
        load("orbit_average")(x, None, table, [], [], "border", False)
        load("orbit_inner")(x, x, table, [], [], "border")
        y = load("orbit_conv2d")(x, weight, None, table, *options, "none")
        load("orbit_conv2d_backward")(y, x, weight, table, *options, [True, True, True])
        load("orbit_conv2d_pool")(x, weight, None, table, *options, "none")
        load("orbit_losses")(vectors, vectors[0], None, 3, 1.0, 1.0, True, True)
        load("orbit_linear_scores")(vectors, weight[0, 0], None, vectors[0], 3, 1.0, True)
        assert len({launch.kernel for launch in gpu.launches}) >= 10


def test_choices_of_several_processes_are_kept_side_by_side(cache):
    tuned.store("a GPU", "orbit", "one")
    tuned.store("another", "orbit", "two")
    tuned.store("a GPU", "act", "three")
    assert tuned.load() == {"a GPU": {"orbit": "one", "act": "three"}, "another": {"orbit": "two"}}
    assert [file.name for file in cache.iterdir()] == ["tuned.json"]


def test_a_cache_that_cant_be_written_is_done_without(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("EQUIFAST_CACHE_DIR", str(cache / "file"))
    tuned.store("a GPU", "orbit", "one")
    assert tuned.load() == {}
