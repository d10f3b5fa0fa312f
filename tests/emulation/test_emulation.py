"""The emulation itself: what hardware.h promises, and that sanitizers see what goes wrong in it."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from ..cases import assert_same, rand
from .build import SANITIZERS, VARIANTS, build, environment, variant
from .emulated import ops

pytestmark = pytest.mark.skipif(variant() != "plain", reason="once is enough")

ROOT = Path(__file__).parents[2]
KINDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}


@pytest.fixture(scope="session")
def probes() -> ctypes.CDLL:
    return ctypes.CDLL(str(build("probes")))


def test_every_op_in_cuda_is_emulated():
    """An op that the library lost would otherwise go untested."""
    assert {path.stem for path in (ROOT / "csrc/cuda/ops").glob("*.cpp")} <= set(ops())


def pointer(t: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def held(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows and columns of the numbers that each lane holds, (32, i, 2), of a, b and c: as the PTX ISA has them of
    mma.m16n8k16 on 16-bit numbers, and of mma.m16n8k8 on tf32."""
    lane = torch.arange(32)[:, None]
    group, place = lane // 4, lane % 4

    def pair(row, column):
        return torch.stack(torch.broadcast_tensors(row, column), -1)

    i = torch.arange(8)
    if dtype == torch.float32:
        a = pair(group + 8 * (i[:4] % 2), place + 4 * (i[:4] // 2))
        b = pair(place + 4 * i[:2], group)
    else:
        a = pair(group + 8 * (i // 2 % 2), 2 * place + i % 2 + 8 * (i // 4))
        b = pair(2 * place + i[:4] % 2 + 8 * (i[:4] // 2), group)
    return a, b, pair(group + 8 * (i[:4] // 2), 2 * place + i[:4] % 2)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_a_matrix_instruction_is_a_product(probes, dtype):
    depth = 8 if dtype == torch.float32 else 16
    a, b, c = rand(16, depth, dtype=dtype), rand(depth, 8, dtype=dtype, seed=1), rand(16, 8, seed=2)
    ours = [t[tuple(where.unbind(-1))].contiguous() for t, where in zip((a, b, c), held(dtype), strict=True)]
    assert ours[0].nbytes == 32 * 4 * 4 and ours[1].nbytes == 32 * 2 * 4
    probes.probe_mma(KINDS[dtype], *map(pointer, ours))
    if dtype == torch.float32:  # of which the units see ten bits
        a, b = ((t.view(torch.int32) & -0x2000).view(torch.float32) for t in (a, b))
    expected = (a.double() @ b.double() + c.double())[tuple(held(dtype)[2].unbind(-1))]
    torch.testing.assert_close(ours[2].double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "argument", "source"),
    [(0, 5, lambda i: 5 + 0 * i), (1, 3, lambda i: i ^ 3), (1, 16, lambda i: i ^ 16)]
    + [(2, delta, lambda i, delta=delta: torch.where(i + delta < 32, i + delta, i)) for delta in (1, 16)],
)
def test_shuffles(probes, kind, argument, source):
    values = rand(2, 3, 32, dtype=torch.float64)
    out = values.clone()
    probes.probe_shuffle(kind, argument, pointer(out), 2, 96)
    assert_same(out, values[..., source(torch.arange(32))])


@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (5, 64), (2, 1024)])
def test_barriers_of_several_blocks(probes, blocks, threads):
    values = torch.arange(blocks * threads).reshape(blocks, threads) * 7919 % 1009
    out = torch.empty_like(values)
    probes.probe_scan(pointer(values), pointer(out), blocks, threads)
    assert_same(out, values.cumsum(1))


def test_no_block_finds_what_another_left_in_shared_memory(probes):
    found = torch.empty(5, 64, dtype=torch.int32)
    probes.probe_leave(pointer(found), 5, 64)
    assert (found == -1).all()
    assert found.view(torch.float32).isnan().all()


def test_narrowing_is_torchs_rounding(probes):
    x = torch.cat((rand(1000), rand(1000) * 1e5, rand(1000) * 1e-6, torch.tensor([torch.inf, -torch.inf, -0.0, 65520])))
    halves, bfloats = (torch.empty(len(x), dtype=dtype) for dtype in (torch.float16, torch.bfloat16))
    tf32 = torch.empty_like(x)
    probes.probe_narrow(*map(pointer, (x, halves, bfloats, tf32)), ctypes.c_int64(len(x)))
    assert_same(halves, x.half())
    assert_same(bfloats, x.bfloat16())
    finite = x.isfinite()
    assert ((tf32 - x)[finite].abs() <= x[finite].abs() * 2**-11).all()
    assert (tf32.view(torch.int32) & 0x1FFF == 0).all() and torch.equal(tf32[~finite], x[~finite])


def test_widening_is_torchs(probes):
    every = torch.arange(-(2**15), 2**15).to(torch.int16)
    halves, bfloats = torch.empty(2**16), torch.empty(2**16)
    probes.probe_widen(*map(pointer, (every, halves, bfloats)), ctypes.c_int64(2**16))
    assert_same(halves, every.view(torch.float16).float())
    assert_same(bfloats, every.view(torch.bfloat16).float())


def planted(name: str, mistake: str) -> subprocess.CompletedProcess:
    env = environment(name)
    env.pop("LD_PRELOAD", None)  # it is linked
    return subprocess.run([build(f"planted_{name}"), mistake], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_kernel_without_mistakes_is_clean(name):
    run = planted(name, "none")
    assert (run.returncode, run.stdout) == (0, "0 wrong\n"), run.stderr


MISTAKES = {
    ("address", "beyond_output"): "heap-buffer-overflow",
    ("address", "beyond_shared"): "heap-buffer-overflow",
    ("address", "overflow"): "signed integer overflow",
    ("address", "misaligned"): "load of misaligned address",
    ("thread", "no_barrier"): "data race",
    ("thread", "no_warp_barrier"): "data race",
    ("thread", "two_blocks"): "data race",
}


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_sanitizers_see_mistakes(name, mistake):
    run = planted(name, mistake)
    assert run.returncode not in (0, 2) and MISTAKES[name, mistake] in run.stderr, run.stderr
    assert "planted.cu" in run.stderr


def test_a_barrier_that_some_never_reach_is_an_error():
    run = planted("plain", "left_early")
    assert run.returncode < 0 and "never reach" in run.stderr


def test_every_sanitizer_has_mistakes_to_see():
    assert {name for name, _ in MISTAKES} == set(SANITIZERS)
