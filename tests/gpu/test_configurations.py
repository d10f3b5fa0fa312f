"""Every configuration of every Triton kernel computes the same, and tuning picks one of them."""

import pytest
import torch

from equifast import kernels
from equifast.groups import as_group

from ..cases import assert_near, assert_near_overall, rand
from ..definitions import expected
from .device import DRY, Sample, device_only, gpu, large, move, moved, triton_only, with_kernels

pytestmark = [*gpu, triton_only]


class Forced:
    """Makes every kernel take its i-th configuration, or its last one where there are fewer."""

    def __init__(self, monkeypatch):
        from equifast.kernels.host.launch import Kernel

        self.i, self.most, self.taken = 0, 0, set()
        prepare = Kernel._prepare

        def forced(kernel, problem, *rest):
            self.most = max(self.most, len(problem.configs))
            config = problem.configs[min(self.i, len(problem.configs) - 1)]
            self.taken.add((kernel.name, str(config)))
            return prepare(kernel, problem._replace(configs=[config]), *rest)

        monkeypatch.setattr(Kernel, "_prepare", forced)


@pytest.fixture
def forced(monkeypatch, every_kernel):
    return Forced(monkeypatch)


def outputs_of_each(sample, forced, every_kernel):
    forced.i, forced.most = 0, 1
    while forced.i < forced.most:
        for kernel in every_kernel.values():
            kernel._launches.clear()
        yield f"{sample}, configuration {forced.i}", sample.run()
        forced.i += 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("op", kernels.FILES)
def test_every_configuration_on_small_samples(op, dtype, forced, every_kernel):
    if DRY and dtype != torch.float32:
        pytest.skip("float32 is enough for the interpreter")
    for sample in with_kernels(dtype):
        if sample.op == op:
            true = expected(sample)
            for about, outs in outputs_of_each(moved(sample), forced, every_kernel):
                for out, t in zip(outs, true, strict=True):
                    assert_near_overall(out.cpu(), t, scale=10, about=about)
    assert forced.taken


def real(dtype):
    """Shapes whose lists of configurations are the long ones."""
    for name, size, batch in (("C4", 224, 8), ("C8", 96, 16)):
        group = as_group(name)
        table, e = list(group.action_table(inverse=True)), group.order
        plain = (table, [], [], "border")
        x, element = rand(batch, 3, size, size, dtype=dtype), torch.arange(batch) % e
        yield Sample("orbit", (x, None, *plain, False))
        yield Sample("orbit", (x, None, *plain, True))
        yield Sample("act", (x, element, *plain, False))
        yield Sample("act", (x, element, *plain, True))
        yield Sample("orbit_average", (rand(e, batch, 3, size, size, dtype=dtype), None, *plain, False))
        yield Sample("orbit_inner", (x, x.flip(0), *plain))
        for channels, kernel, stride in ((16, 7, 2), (64, 7, 2), (768, 16, 16)):
            weight = rand(channels, 3, kernel, kernel, dtype=dtype, seed=1) / kernel
            conv = table, [stride] * 2, [0, 0], [1, 1], "border"
            yield Sample("orbit_conv2d", (x, weight, None, *conv, "gelu"))
            yield Sample("orbit_conv2d_pool", (x, weight, None, *conv, "gelu"))
            out = (size - kernel) // stride + 1
            grad = rand(e * batch, channels, out, out, dtype=dtype, seed=2)
            yield Sample("orbit_conv2d_backward", (grad, x, weight, *conv, [True, True, False]))
        for d in (16, 128, 1000):
            vectors, reference = rand(e * 512, d, dtype=dtype), rand(d, dtype=dtype, seed=1)
            yield Sample("orbit_scores", (vectors, reference, e, 1.5, True))
            yield Sample("orbit_losses", (vectors, reference, None, e, 1.5, 1.0, True, True))
            linear = rand(e * 512, 800, dtype=dtype), rand(d, 800, dtype=dtype, seed=1) / 30, None, reference
            yield Sample("orbit_linear_scores", (*linear, e, 1.5, True))


@large
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_configuration_on_real_shapes(dtype, forced, every_kernel):
    """Against the first one, which the other tests hold against the reference."""
    for sample in real(dtype):
        first = None
        for about, outs in outputs_of_each(moved(sample), forced, every_kernel):
            first = first or [out.clone() for out in outs]
            for out, t in zip(outs, first, strict=True):
                if out.dtype.is_floating_point:
                    assert_near_overall(out, t, scale=10, about=about)


@device_only
def test_tuning_picks_a_configuration_once(as_users_have_it, every_kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFAST_CACHE_DIR", str(tmp_path))
    from equifast.kernels.host import launch

    launch._tuned_before.cache_clear()
    calls = []
    fastest = launch.Kernel._fastest

    def noted(kernel, *rest):
        calls.append(kernel.name)
        return fastest(kernel, *rest)

    monkeypatch.setattr(launch.Kernel, "_fastest", noted)
    x, weight = move(rand(16, 3, 96, 96)), move(rand(16, 3, 7, 7, seed=1))
    table = list(as_group("C4").action_table(inverse=True))
    sample = Sample("orbit_conv2d", (x, weight, None, table, [2, 2], [0, 0], [1, 1], "border", "none"))
    first = sample.run()
    assert calls.count("orbit_conv2d") <= 1
    before = len(calls)
    for out, t in zip(sample.run(), first, strict=True):
        assert_near(out, t)
    assert len(calls) == before
    monkeypatch.setenv("EQUIFAST_AUTOTUNE", "0")
    for kernel in every_kernel.values():
        kernel._launches.clear()
        kernel._chosen.clear()
    sample.run()
    assert len(calls) == before
    launch._tuned_before.cache_clear()
