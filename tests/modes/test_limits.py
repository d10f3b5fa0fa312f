"""What narrows, has no values yet, or can't work: autocast, fake and meta tensors, and errors that say what to do."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree

from equifast import ops, targets
from equifast.compat.equiadapt.images._action import act_by_angle

from ..cases import assert_near, assert_same, ids, rand
from .modules import MODULES, build, learned


@pytest.mark.parametrize("name", MODULES)
def test_a_module_made_on_meta_gets_values_by_reset_parameters(name):
    """They are distributed as those of a new module, and each module's own method draws what its constructor drew."""
    with torch.device("meta"):
        module = MODULES[name][0]()
    module = module.to_empty(device="cpu").eval()
    for part in module.modules():
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if own:
            part.reset_parameters()
    assert all(t.isfinite().all() for t in module.state_dict().values())
    expected = MODULES[name][0]().state_dict()
    for key, value in module.state_dict().items():
        if value.is_floating_point() and value.numel() > 30:
            assert 0.5 * expected[key].std() <= value.std() <= 2 * expected[key].std()
    x = rand(2, 3, 20, 20) if name == "resized" else rand(2, 3, 16, 16)
    assert module(x).probabilities.isfinite().all()


def differentiate_twice(module, x):
    x.requires_grad_()
    (by_x,) = torch.autograd.grad(module(x).activations.square().sum(), x, create_graph=True)
    by_x.square().sum().backward()


def tangent_of_an_angle(module, x):
    choice = {"rotation": torch.zeros(len(x), dtype=x.dtype)}
    torch.func.jvp(lambda x: act_by_angle(x, choice, module.group, padding_mode="border", inverse=True), (x,), (x,))


#: What can't work: a function of a module and x, and what the error says.
REFUSALS = {
    "double backward": (differentiate_twice, r"double backward is not supported; use equifast\.reference\."),
    "a copy of a form with a graph": (lambda module, x: copy.deepcopy(module(x)), "graph leaves"),
    "noise under vmap": (
        lambda module, x: torch.func.vmap(lambda image: module(image[None]).image)(x),
        "Please either use the 'same' or 'different' randomness",
    ),
    "forward mode in compat": (tangent_of_an_angle, "jvp"),
}


@pytest.mark.parametrize("mode", REFUSALS)
def test_what_cannot_work_is_an_error_that_says_why(mode):
    module, x = build("gumbel")
    module.training = True  # of itself alone, so that it draws noise
    refused, match = REFUSALS[mode]
    with pytest.raises(RuntimeError, match=match):
        refused(module, x)


class TestAutocast:
    """It narrows float32 alone, as it does for ``F.conv2d``."""

    @pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("name", MODULES)
    def test_float64_stays(self, name, narrow):
        module, x = build(name)
        module, x = module.double(), x.double()
        expected = module(x)
        with torch.no_grad(), torch.autocast("cpu", narrow):
            form = module(x)
        for ours, theirs in zip(_pytree.tree_leaves(form), _pytree.tree_leaves(expected), strict=True):
            if theirs is not None:
                assert_near(ours, theirs.detach())

    def test_float64_beside_float32_is_an_error(self):
        x, weight = rand(2, 3, 6, 6, dtype=torch.float64), rand(4, 3, 3, 3)
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="weight: expected the dtype of x"):
            ops.orbit_conv2d(x, weight, group="C4")

    @pytest.mark.parametrize(
        "op", ["orbit_scores", "orbit_linear_scores", "orbit_logit_scores", "orbit_losses", "contrastive_loss"]
    )
    def test_vectors_in_float64_stay(self, op):
        v, w, r = (rand(*s, dtype=torch.float64, seed=i) for i, s in enumerate(((8, 5), (5, 5), (5,))))
        call = {
            "orbit_scores": lambda: ops.orbit_scores(v, r, group="C4").activations,
            "orbit_linear_scores": lambda: ops.orbit_linear_scores(v, w, None, r, group="C4").activations,
            "orbit_logit_scores": lambda: ops.orbit_logit_scores(v, group="C4").activations,
            "orbit_losses": lambda: ops.orbit_losses(v, r, group="C4").prior,
            "contrastive_loss": lambda: ops.contrastive_loss(v, group="C4"),
        }[op]
        with torch.autocast("cpu", torch.bfloat16):
            found = call()
        assert_same(found, call())


class TestTensorsWithoutValues:
    """Checks of arguments don't look at the values of fake tensors, nor at those that `vmap` batches."""

    def test_fake_tensors(self):
        with FakeTensorMode():
            element = torch.zeros(2, dtype=torch.int64)
            assert ops.act(torch.rand(2, 3, 6, 6), element, group="C4").shape == (2, 3, 6, 6)
            assert ops.orbit_losses(torch.rand(8, 5), torch.rand(5), group="C4", target=element).prior.shape == ()
            form = learned("C4")()(torch.rand(2, 3, 16, 16))
            assert form.image.shape == (2, 3, 16, 16) and form.transform_boxes(torch.rand(2, 5, 4)).shape == (2, 5, 4)

    def test_ids_that_vmap_batches(self):
        element, x, boxes = ids("D4", 6).view(3, 2), rand(3, 2, 3, 6, 6), rand(3, 2, 5, 4).sort(-1).values
        found = torch.func.vmap(lambda e, x: ops.act(x, e, group="D4"))(element, x)
        moved = torch.func.vmap(lambda e, b: targets.act_boxes(b, e, group="D4", size=(6, 6)))(element, boxes)
        for k in range(3):
            assert_same(found[k], ops.act(x[k], element[k], group="D4"))
            assert_same(moved[k], targets.act_boxes(boxes[k], element[k], group="D4", size=(6, 6)))

    def test_ids_out_of_range_are_still_an_error_where_kernels_see_them(self):
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            torch.func.vmap(lambda e, x: ops.act(x, e, group="C4"))(torch.full((2, 3), 4), rand(2, 3, 1, 5, 5))
