"""Compiled and exported programs: sizes that they take, packages, and gradients that they keep or refuse."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils import _pytree

from equifast import CanonicalForm, canonicalize, decompositions
from equifast.estimators import ESTIMATORS, SURROGATES
from equifast.nn import Canonicalizer, TinyCanonicalizer

from ..cases import assert_near, assert_near_overall, rand
from .modules import build, learned, loss_of


class TestCompiling:
    def test_sizes_after_the_second_are_compiled_already(self):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        module = Canonicalizer(layers, "C8", vector_size=4)
        counter = CompileCounterWithBackend("aot_eager")
        run = torch.compile(module, backend=counter, fullgraph=True)
        for batch, height, width in ((2, 10, 10), (3, 12, 12), (5, 17, 17), (4, 20, 14), (2, 9, 30)):
            x = rand(batch, 3, height, width)
            assert_near(run(x).image.detach(), module(x).image.detach())
        assert counter.frame_count == 2

    def test_vmap_within_compiled_code(self):
        module, x = build("soft")
        batched = torch.func.vmap(lambda image: module(image[None]).activations[0])
        assert_near(torch.compile(batched, backend="eager", fullgraph=True)(x).detach(), module(x).activations.detach())


@pytest.mark.slow
def test_a_package_of_aotinductor(tmp_path):
    """Its runtime passes None in place of empty lists."""
    module, x = TinyCanonicalizer(3, "C4", channels=4, kernel_size=3).eval(), rand(3, 3, 8, 8)
    batch = {0: torch.export.Dim("batch", min=2)}
    with torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=(batch,))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "canonicalizer.pt2"))
        package = torch._inductor.aoti_load_package(path)
        for images in (x, torch.cat((x, -x))):
            form, expected = package(images), module(images)
            assert type(form) is CanonicalForm and form.group == expected.group
            for ours, theirs in zip(_pytree.tree_leaves(form), _pytree.tree_leaves(expected), strict=True):
                assert_near(ours, theirs)


class Averaged(nn.Module):
    """The outputs of a network, averaged over the two orientations of which it is surest."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())

    def forward(self, x):
        return canonicalize(x, self.network, None, score="confidence", group="C4").average(self.network, x, top_k=2)


class Searched(Averaged):
    """The rotation of which a network is surest, to a sixteenth of a turn."""

    def forward(self, x):
        return canonicalize(x, self.network, None, score="confidence", group="C4", refine=2).image


@pytest.mark.parametrize("make", [Averaged, Searched])
def test_averages_and_searches_are_exported_for_any_batch(make):
    module, batch = make().eval(), {0: torch.export.Dim("batch")}
    with torch.no_grad():
        program = torch.export.export(module, (rand(4, 3, 12, 12),), dynamic_shapes=(batch,))
        for exported in (program, program.run_decompositions(decompositions())):
            for count in (1, 6):
                x = rand(count, 3, 12, 12, seed=count)
                assert_near(exported.module()(x), module(x))


class TestExportingInTraining:
    @pytest.mark.parametrize("estimator", SURROGATES)
    def test_a_gradient_that_would_be_dropped_is_an_error(self, estimator):
        module, x = learned("C4", estimator=estimator)().train(), rand(2, 3, 16, 16)
        with pytest.raises(
            RuntimeError, match=f"torch.export drops the gradient of '{estimator}'; export the module in"
        ):
            torch.export.export(module, (x,))
        with torch.no_grad():
            torch.export.export(module, (x,))  # nothing is dropped

    @pytest.mark.parametrize("estimator", sorted(ESTIMATORS.keys() - set(SURROGATES)))
    def test_other_gradients_are_kept(self, estimator):
        torch.manual_seed(0)
        module, x = learned("C4", estimator=estimator)().double().train(), rand(3, 3, 16, 16, dtype=torch.float64)
        twin = torch.export.export(copy.deepcopy(module), (x,)).module()
        found = [p.grad for run in (twin, module) for p in (loss_of(run(x)).backward(), *run.parameters())[1:]]
        half = len(found) // 2
        for ours, theirs in zip(found[:half], found[half:], strict=True):
            assert_near_overall(ours, theirs, 10)
