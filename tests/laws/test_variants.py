"""One answer, whatever the number of threads, the instruction set, or the run; and the reference backend's beside it.

Run as ``python -m tests.laws.test_variants FILE``, it saves the answers of this process there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equifast import as_group, ops
from equifast.backends import helper, native

from ..cases import DTYPES, assert_near_overall, assert_same, differentiable, ids, rand

SUPPORTED = helper.supported_isas() if native.build_info().get("native") else []


def answers(groups, shapes, dtypes, batch):
    """Outputs and gradients of every public op, and what the estimator `angle` calls."""
    results = {}
    for group in map(as_group, groups):
        for shape in shapes:
            for dtype in dtypes:
                for name, function, leaves in differentiable(group, shape, dtype, batch):
                    leaves = [leaf.requires_grad_() for leaf in leaves]
                    out = function(ops, *leaves)
                    out = out if isinstance(out, tuple) else (out,)
                    upstream = [rand(*o.shape, dtype=dtype, seed=9) for o in out]
                    grads = torch.autograd.grad(out, leaves, upstream)
                    key = f"{name} of {group} on {shape} in {dtype}"
                    results[key] = [t.detach() for t in (*out, *grads)]
                images, element = [rand(batch, 3, *shape, dtype=dtype, seed=s) for s in range(3)], ids(group, batch)
                options = list(group.action_table(inverse=True)), group.n, "border"
                sums = torch.ops.equifast.angle_inner(*images, element, *options)
                results[f"angle_inner of {group} on {shape} in {dtype}"] = [sums]
    return results


def save(file):
    torch.set_num_threads(1)
    torch.save(answers(["C5", "C8", "D4"], [(33, 33), (18, 37)], DTYPES, 2), file)


@pytest.fixture(scope="module")
def answers_of(tmp_path_factory):
    """The answers of a fresh process with these environment variables, whose scratch memory starts as garbage."""

    def ask(**variables):
        file = tmp_path_factory.mktemp("answers") / "answers.pt"
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.perturb=1", "OMP_NUM_THREADS": "1"} | variables
        subprocess.run(
            [sys.executable, "-m", "tests.laws.test_variants", str(file)],
            check=True,
            cwd=Path(__file__).parents[2],
            env=environment,
        )
        return torch.load(file)

    return ask


@pytest.fixture(scope="module")
def expected(answers_of):
    return answers_of(EQUIFAST_CPU_CAPABILITY=SUPPORTED[-1])


def compare(actual, expected, check):
    assert actual.keys() == expected.keys()
    for key, tensors in actual.items():
        for ours, theirs in zip(tensors, expected[key], strict=True):
            check(key, ours, theirs)


def same(key, ours, theirs):
    assert_same(ours, theirs)


def same_but_for_convolutions(key, ours, theirs):
    """The direct one alone is compiled with fused multiply-add, where there is one; the rest of them is oneDNN."""
    if key.startswith("orbit_conv2d"):
        assert_near_overall(ours, theirs, scale=4, about=key)
    else:
        assert_same(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("isa", SUPPORTED[:-1])
def test_every_instruction_set_gives_the_same_bits(isa, expected, answers_of):
    compare(answers_of(EQUIFAST_CPU_CAPABILITY=isa), expected, same_but_for_convolutions)


@pytest.mark.slow
def test_the_reference_backend_gives_the_same_values(expected, answers_of):
    def check(key, ours, theirs):
        assert_near_overall(ours, theirs, scale=4, about=key)

    compare(answers_of(EQUIFAST_BACKEND="reference"), expected, check)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_the_number_of_threads_nor_the_run_changes_a_bit(threads):
    """One image, cut into runs of rows; and enough of them for a task each."""
    for groups, shape, batch in ((["C2", "C8"], (151, 9), 1), (["C8", "D3"], (20, 20), 8)):
        expected = answers(groups, [shape], [torch.float32], batch)
        torch.set_num_threads(threads)
        actual = answers(groups, [shape], [torch.float32], batch)
        torch.set_num_threads(1)
        compare(actual, expected, same_but_for_convolutions if threads > 1 else same)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [1, 8, 40])
def test_threads_change_no_bit_of_the_direct_convolution(batch, threads):
    x, leaves = rand(batch, 3, 12, 12), [t.requires_grad_() for t in (rand(20, 3, 3, 3), rand(20))]
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        out = ops.orbit_conv2d(x, *leaves, group="C8", padding=1)
        results.append((out, *torch.autograd.grad(out, leaves, rand(*out.shape, seed=1))))
    torch.set_num_threads(1)
    for one, more in zip(*results, strict=True):
        assert_same(more, one)


if __name__ == "__main__":
    save(sys.argv[1])
