"""Kernels run where the caller is: on its stream, in its graph, on the tensors' device; and as few as they should."""

import json

import pytest
import torch
from torch import Tensor

import equifast

from ..cases import assert_near, assert_same, rand
from .device import BACKENDS, DEVICE, OPS, Sample, device_only, gpu, move, moved, triton_only, with_kernels

pytestmark = [*gpu, pytest.mark.usefixtures("as_users_have_it")]

SAMPLES = list(with_kernels())

#: Launches of each op for C4, whose elements are all exact. The losses' second sums what the blocks of the first did.
LAUNCHES = {
    "orbit": ["orbit"],
    "act": ["act"],
    "orbit_average": ["orbit_average"],
    "orbit_inner": ["orbit_inner"],
    "orbit_conv2d": ["orbit_conv2d"],
    "orbit_conv2d_pool": ["orbit_conv2d_pool"],
    "orbit_scores": ["orbit_scores"],
    "orbit_linear_scores": ["orbit_linear_scores"],
    "orbit_logit_scores": ["orbit_logit_scores"],
    "orbit_logit_scores_backward": ["orbit_logit_scores_backward"],
    "contrastive_loss": ["contrastive_loss", "mean"],
    "contrastive_loss_backward": ["contrastive_loss_backward"],
    "orbit_scores_backward": ["orbit_scores_backward"],
    "orbit_losses": ["orbit_losses", "mean"],
    "orbit_losses_backward": ["orbit_losses_backward"],
}


@pytest.fixture
def launched(monkeypatch):
    """Names of the Triton kernels launched so far, by the host."""
    names = []
    if "triton" not in BACKENDS:
        return names
    from equifast.kernels.host.launch import Kernel

    launch = Kernel.launch
    monkeypatch.setattr(Kernel, "launch", lambda kernel, *rest: names.append(kernel.name) or launch(kernel, *rest))
    return names


@triton_only
@pytest.mark.parametrize("op", LAUNCHES)
def test_launches_are_few(op, launched):
    sample = next(s for s in SAMPLES if s.op == op)
    if op.startswith("orbit_conv2d"):  # of square images, for which C4 interpolates nothing
        sample = Sample(op, (sample.args[0][..., :7].contiguous(), *sample.args[1:]))
    moved(sample).run()
    assert launched == LAUNCHES[op]


@triton_only
def test_tiny_canonicalizer_takes_three_launches(launched):
    """The pooled convolution, the scores, the warp."""
    module = equifast.nn.TinyCanonicalizer(3, "C4", channels=8, kernel_size=3).to(DEVICE).eval()
    with torch.no_grad():
        module(move(rand(2, 3, 12, 12)))
    assert launched == ["orbit_conv2d_pool", "orbit_scores", "act"]


def refill(sample: Sample, other: Sample) -> None:
    """Other numbers in the same memory; ids stay."""
    for mine, theirs in zip(sample.args, other.args, strict=True):
        if isinstance(mine, Tensor) and mine.is_floating_point():
            mine.copy_(theirs)


def turned(sample: Sample) -> Sample:
    """The same with its numbers in another order, halved."""

    def other(arg):
        number = isinstance(arg, Tensor) and arg.is_floating_point() and arg.dim()
        return arg.flip(-1) / 2 if number else arg

    return Sample(sample.op, tuple(map(other, sample.args)))


@device_only
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_on_a_side_stream_with_work_queued(sample):
    """The inputs come into being on that stream, late: a kernel elsewhere would read what was there before."""
    sample, true = moved(sample), [out.clone() for out in moved(turned(sample)).run()]
    fresh = moved(turned(sample))
    sample.run()
    side = torch.cuda.Stream(DEVICE)
    torch.cuda.synchronize(DEVICE)
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # about 10 ms
        refill(sample, fresh)
        outs = sample.run()
        kept = [out.clone() for out in outs]
    side.synchronize()
    for out, t in zip(kept, true, strict=True):
        assert_near(out, t)


@device_only
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_profiler_sees_our_kernels_on_the_callers_stream(sample, launched, tmp_path):
    sample, marker = moved(sample), torch.ones(64, device=DEVICE)
    sample.run()
    side = torch.cuda.Stream(DEVICE)
    torch.cuda.synchronize(DEVICE)
    launched.clear()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        marker.cos()
        side.wait_stream(torch.cuda.current_stream(DEVICE))
        with torch.cuda.stream(side):
            marker.sin()
            sample.run()
        torch.cuda.synchronize(DEVICE)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    ran = [(event["name"], event["args"]["stream"]) for event in events if event.get("cat") == "kernel"]
    (default,) = {stream for name, stream in ran if "cos_kernel" in name}
    (mine,) = {stream for name, stream in ran if "sin_kernel" in name}
    assert mine != default
    ours = [f"_{name}_kernel" for name in launched]
    assert sorted(name for name, _ in ran if name in ours) == sorted(ours)
    assert ours or any("equifast::cuda::" in name for name, _ in ran)
    assert {stream for name, stream in ran if "cos_kernel" not in name} == {mine}


def capture(function, stream=None):
    """A graph of it, and what it returns, warmed up as graphs need it."""
    side = torch.cuda.Stream(DEVICE)
    side.wait_stream(torch.cuda.current_stream(DEVICE))
    with torch.cuda.stream(side):
        for _ in range(2):
            function()
    torch.cuda.current_stream(DEVICE).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = function()
    return graph, outs


@pytest.fixture
def no_tuning_under_capture(monkeypatch):
    if "triton" not in BACKENDS:
        return
    from equifast.kernels.host.launch import Kernel

    fastest = Kernel._fastest

    def watched(kernel, *rest):
        assert not torch.cuda.is_current_stream_capturing(), f"{kernel.name} is tuned under capture"
        return fastest(kernel, *rest)

    monkeypatch.setattr(Kernel, "_fastest", watched)


@device_only
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_in_a_graph_replayed_with_other_inputs(sample, no_tuning_under_capture, every_kernel):
    other = moved(turned(sample))
    sample = moved(sample)
    graph, outs = capture(sample.run)
    for inputs in (other, moved(turned(turned(sample))), other):
        refill(sample, inputs)
        graph.replay()
        for out, t in zip(outs, inputs.run(), strict=True):
            assert_near(out, t)


@device_only
def test_a_shape_first_seen_under_capture_is_not_tuned(no_tuning_under_capture, every_kernel):
    """It takes the likeliest configuration, and is tuned at the next call outside."""
    x = move(rand(4, 3, 40, 40))
    equifast.orbit(move(rand(4, 3, 36, 36)), "C8")  # compiled, but for another shape
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = equifast.orbit(x, "C8")
    graph.replay()
    assert_same(out, equifast.orbit(x, "C8"))


@device_only
def test_a_training_step_in_a_graph():
    """Forward and backward of scores, losses and layer."""
    x, vectors = move(rand(4, 3, 24, 24)), move(rand(8 * 4, 16, seed=1))
    weight, r = move(rand(8, 3, 5, 5, seed=2)), move(rand(16, seed=3))

    def step():
        leaves = [t.detach().requires_grad_() for t in (x, weight, vectors, r)]
        found = equifast.orbit_losses(leaves[2], leaves[3], group="C8")
        layer = equifast.orbit_conv2d(leaves[0], leaves[1], group="C8")
        loss = found.prior + found.contrastive + layer.square().mean()
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    graph, outs = capture(step)
    for seed in (5, 6):
        x.copy_(rand(4, 3, 24, 24, seed=seed))
        vectors.copy_(rand(8 * 4, 16, seed=seed))
        graph.replay()
        for out, t in zip(outs, step(), strict=True):
            assert_near(out, t)


@device_only
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_on_the_other_device(sample):
    """Whichever is the current one."""
    first = moved(sample).run()
    args = tuple(a.to("cuda:1") if isinstance(a, Tensor) else a for a in moved(sample).args)
    second = Sample(sample.op, args).run()
    assert torch.cuda.current_device() == 0
    for a, b in zip(first, second, strict=True):
        assert b.device == torch.device("cuda:1") and not a.is_cpu
        assert_near(a.cpu(), b.cpu())


def test_every_op_has_samples_here():
    assert {sample.op for sample in SAMPLES} == set(OPS)
