"""Every mode of PyTorch, on every kind of canonicalizer: values and gradients are those of a plain call.

What can't be so is an error that says what to do instead. `docs/usage.md` has the table of modes.
"""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils import _pytree
from torch.utils.checkpoint import checkpoint

import equifast
from equifast import CanonicalForm, canonicalize, ops, targets
from equifast.compat.equiadapt.images._action import act_by_angle
from equifast.estimators import ESTIMATORS, SURROGATES
from equifast.nn import Canonicalizer, ConvNetwork, EquivariantNetwork, TinyCanonicalizer

from .cases import assert_near, assert_near_overall, assert_same, ids, rand


class Direct(nn.Module):
    """The direct method as a module."""

    def __init__(self, group):
        super().__init__()
        self.group, self.network = group, EquivariantNetwork((3, 16, 16), group, 4, 3, 2)

    def forward(self, x):
        return canonicalize(x, group=self.group, activations=self.network(x))


def network():
    made = ConvNetwork((3, 16, 16), 4, 3, 2, 8)
    made.final_fc[1] = nn.Identity()  # without dropout, training is as repeatable as evaluation
    return made


def learned(group, **options):
    return lambda: Canonicalizer(network(), group, **options)


#: Modules of each kind of estimator, score, padding and group, with the dtype that they run in.
MODULES = {
    "straight-through": (learned("C4"), torch.float32),
    "soft": (learned("D3", estimator="soft", padding_mode="zeros"), torch.float64),
    "angle": (learned("C8", estimator="angle"), torch.float64),
    "gumbel": (learned("C3", estimator="gumbel", learn_reference=False), torch.float64),
    "none": (learned("C6", estimator="none", score=equifast.scores.margin), torch.float64),
    "resized": (lambda: Canonicalizer(network(), "D4", crop=0.9, resize=16), torch.float64),
    "tiny": (lambda: TinyCanonicalizer(3, "D4", channels=8, kernel_size=3), torch.float64),
    "direct": (lambda: Direct("C8"), torch.float64),
}


def build(name):
    """The module in eval mode, and images for it."""
    make, dtype = MODULES[name]
    torch.manual_seed(0)
    return make().to(dtype).eval(), rand(3, 3, 20 if name == "resized" else 16, 20 if name == "resized" else 16).to(
        dtype
    )


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(module, x):
    return torch.compile(module, backend="aot_eager", fullgraph=True)(x)


def exported(module, x, **options):
    with torch.no_grad():
        return torch.export.export(module, (x,), **options)


def saved_and_loaded(module, x):
    """Exported with one batch size, saved, loaded, and called with another."""
    file = io.BytesIO()
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.export.save(exported(module, torch.cat((x, x)), dynamic_shapes=(batch,)), file)
    file.seek(0)
    return torch.export.load(file).module()(x)


def decomposed(module, x):
    program = exported(module, x).run_decompositions(equifast.decompositions())
    assert not [node for node in program.graph.nodes if "equifast" in str(node.target)]
    return program.module()(x)


def with_state(module, x):
    """A module made on the meta device, with the state of another one."""
    with torch.device("meta"):
        fresh = copy.deepcopy(module)
    fresh = fresh.to("meta")
    fresh.load_state_dict(module.state_dict(), assign=True)
    return fresh(x)


def image_by_image(module, x):
    form = torch.func.vmap(lambda image: module(image[None]))(x)
    assert form.image.shape == (3, 1, *x.shape[1:])
    return _pytree.tree_map(lambda t: t.squeeze(1), form)


def inferred(module, x):
    with torch.inference_mode():
        form = module(x)
        assert form.invert(form.image).is_inference() and form.prior_loss().is_inference()
    return form


def in_threads(module, x):
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        forms = [future.result() for future in [pool.submit(module, x) for _ in range(8)]]
    for form in forms[1:]:
        for a, b in zip(_pytree.tree_leaves(form), _pytree.tree_leaves(forms[0]), strict=True):
            assert a is b is None or torch.equal(a, b)
    return forms[0]


def deterministic(module, x):
    torch.use_deterministic_algorithms(True)  # the fixture of all tests puts it back
    return module(x)


def dual(module, x):
    with forward_ad.dual_level():
        form = module(forward_ad.make_dual(x, torch.ones_like(x)))
        return _pytree.tree_map(lambda t: forward_ad.unpack_dual(t).primal, form)


def weights_only(module, x):
    file = io.BytesIO()
    with torch.no_grad():
        torch.save(module(x), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


#: Ways to get the canonical form of x, each a function of the module and x.
MODES = {
    "compiled": compiled,
    "exported strictly": lambda module, x: exported(module, x, strict=True).module()(x),
    "exported, saved, loaded": saved_and_loaded,
    "decomposed": decomposed,
    "deepcopy": lambda module, x: copy.deepcopy(module)(x),
    "pickle": lambda module, x: pickle.loads(pickle.dumps(module))(x),
    "state_dict on meta": with_state,
    "vmap": image_by_image,
    "functional_call": lambda module, x: torch.func.functional_call(module, dict(module.state_dict()), (x,)),
    "inference_mode": inferred,
    "threads": in_threads,
    "deterministic": deterministic,
    "forward mode": dual,
    "channels_last": lambda module, x: module(x.contiguous(memory_format=torch.channels_last)),
    "the form: saved": weights_only,
    "the form: pickled": lambda module, x: pickle.loads(pickle.dumps(_pytree.tree_map(torch.detach, module(x)))),
    "the form: copied": lambda module, x: copy.deepcopy(_pytree.tree_map(torch.detach, module(x))),
}


#: Modules that differ in what compilers see of them, for modes that take seconds.
FEW = {
    "compiled": ("straight-through", "gumbel", "none", "direct"),
    "exported strictly": ("straight-through", "direct"),
    "exported, saved, loaded": ("straight-through", "none", "resized", "direct"),
    "decomposed": ("soft", "tiny"),
    "gradients compiled": ("straight-through", "soft", "angle", "tiny", "direct"),
    "gradients compiled torch.func.grad": ("straight-through", "angle", "direct"),
}


def cases(modes, prefix=""):
    """Pairs of a module and a mode."""
    pairs = [(name, mode) for mode in modes for name in FEW.get(prefix + mode, MODULES)]
    return pytest.mark.parametrize(("name", "mode"), pairs, ids=map(" ".join, pairs))


@cases(MODES)
def test_the_form_is_that_of_a_plain_call(name, mode):
    module, x = build(name)
    expected, form = module(x), MODES[mode](module, x)
    assert type(form) is CanonicalForm
    assert (form.group, form.padding_mode) == (expected.group, expected.padding_mode)
    for key, ours in vars(expected).items():
        theirs = getattr(form, key)
        assert (theirs is None) == (ours is None)
        if ours is not None and isinstance(ours, torch.Tensor):
            assert theirs.dtype == ours.dtype
            assert_near(theirs.detach(), ours.detach(), 10)


#: The gradient of each pixel of an image of up to 20 rows and columns.
UPSTREAM = rand(3, 20, 20, dtype=torch.float64, seed=3)


def loss_of(form):
    height, width = form.image.shape[2:]
    return (
        (form.image * UPSTREAM[:, :height, :width].to(form.image.dtype)).sum()
        + form.prior_loss(beta=2.0)
        + form.probabilities.square().sum()
    )


def gradients(module, x, run=None):
    """The loss, and its gradients by x and by each parameter that has one; ``run`` stands for the module."""
    x = x.clone().requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    torch.manual_seed(7)  # for gumbel's noise
    loss = loss_of((module if run is None else run)(x))
    return loss.detach(), *torch.autograd.grad(loss, [x, *parameters], allow_unused=True)


def functional(module, x, transform=torch.func.grad_and_value):
    """By `torch.func`; ``transform`` is like ``grad_and_value``."""
    names, buffers = [n for n, p in module.named_parameters() if p.requires_grad], dict(module.named_buffers())

    torch.manual_seed(7)

    def loss(x, *parameters):
        state = buffers | dict(zip(names, parameters, strict=True))
        return loss_of(torch.func.functional_call(module, state, (x,)))

    leaves = (x, *(dict(module.named_parameters())[n] for n in names))
    found, value = transform(loss, argnums=tuple(range(len(leaves))))(*leaves)
    return value, *found


def compiled_functional(module, x):
    """By compiled code that calls `torch.func`."""

    def transform(loss, argnums):
        return torch.compile(torch.func.grad_and_value(loss, argnums), backend="aot_eager", fullgraph=True)

    return functional(module, x, transform)


def with_hooks(module, x):
    with torch.autograd.graph.save_on_cpu():
        return gradients(module, x)


def several_at_once(module, x):
    """Each thread differentiates its own call."""
    if module.training and getattr(module, "estimator", "") == "gumbel":
        return gradients(module, x)  # threads would share the generator
    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(gradients, module, x) for _ in range(4)]][-1]


#: Ways to differentiate, each a function of the module and x.
DIFFERENTIATIONS = {
    "compiled": lambda module, x: gradients(module, x, torch.compile(module, backend="aot_eager", fullgraph=True)),
    "checkpointed": lambda module, x: gradients(module, x, lambda x: checkpoint(module, x, use_reentrant=False)),
    "torch.func.grad": functional,
    "compiled torch.func.grad": compiled_functional,
    "hooks of saved tensors": with_hooks,
    "threads": several_at_once,
}


@cases(DIFFERENTIATIONS, "gradients ")
def test_gradients_are_those_of_a_plain_call(name, mode):
    module, x = build(name)
    expected, found = gradients(module, x), DIFFERENTIATIONS[mode](module, x)
    for ours, theirs in zip(found, expected, strict=True):
        # torch.func gives zeros where autograd gives nothing.
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            assert_near_overall(ours, theirs, 10)
    assert expected[1] is not None and expected[1].any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_forward_mode_is_the_transpose_of_backward(estimator, training):
    """Of a loss: its tangent along u is the inner product of its gradient with u, for images and scores."""
    module = learned("C8", estimator=estimator)().double().eval()
    module.training = training  # of the module itself, so that gumbel draws; layers stay in eval mode
    x, u = rand(2, 3, 16, 16, dtype=torch.float64), rand(2, 3, 16, 16, dtype=torch.float64, seed=1)
    _, by_x, *_ = gradients(module, x)

    def loss(x):
        torch.manual_seed(7)
        return loss_of(module(x))

    _, tangent = torch.func.jvp(loss, (x,), (u,))
    assert_near_overall(tangent, (by_x * u).sum(), 10)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, u)))
        assert_near_overall(dual.tangent, tangent, 10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_of_each_sample_are_those_of_a_loop(estimator):
    """`vmap` of `grad`, and the rows of `jacrev`."""
    torch.manual_seed(0)
    module, x = learned("D3", estimator=estimator)().double().eval(), rand(3, 3, 16, 16, dtype=torch.float64)
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())

    def loss(parameters, image):
        return loss_of(torch.func.functional_call(module, (parameters, buffers), (image[None],)))

    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    rows = torch.func.jacrev(lambda p: torch.stack([loss(p, image) for image in x]))(parameters)
    for k, image in enumerate(x):
        single = torch.autograd.grad(loss(parameters, image), list(parameters.values()), allow_unused=True)
        for name, expected in zip(parameters, single, strict=True):
            for found in (batched[name][k], rows[name][k]):
                assert_near_overall(found, torch.zeros_like(found) if expected is None else expected, 10)


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


class TestExportingInTraining:
    @pytest.mark.parametrize("estimator", SURROGATES)
    def test_a_gradient_that_would_be_dropped_is_an_error(self, estimator):
        module, x = learned("C4", estimator=estimator)().train(), rand(2, 3, 16, 16)
        with pytest.raises(
            RuntimeError, match=f"torch.export drops the gradient of '{estimator}'; export the module in"
        ):
            torch.export.export(module, (x,))
        assert exported(module, x) is not None  # without gradients nothing is dropped

    @pytest.mark.parametrize("estimator", sorted(ESTIMATORS.keys() - set(SURROGATES)))
    def test_other_gradients_are_kept(self, estimator):
        torch.manual_seed(0)
        module, x = learned("C4", estimator=estimator)().double().train(), rand(3, 3, 16, 16, dtype=torch.float64)
        twin = torch.export.export(copy.deepcopy(module), (x,)).module()
        found = [p.grad for run in (twin, module) for p in (loss_of(run(x)).backward(), *run.parameters())[1:]]
        half = len(found) // 2
        for ours, theirs in zip(found[:half], found[half:], strict=True):
            assert_near_overall(ours, theirs, 10)


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

    @pytest.mark.parametrize("op", ["orbit_scores", "orbit_linear_scores", "orbit_losses", "contrastive_loss"])
    def test_vectors_in_float64_stay(self, op):
        v, w, r = (rand(*s, dtype=torch.float64, seed=i) for i, s in enumerate(((8, 5), (5, 5), (5,))))
        call = {
            "orbit_scores": lambda: ops.orbit_scores(v, r, group="C4").activations,
            "orbit_linear_scores": lambda: ops.orbit_linear_scores(v, w, None, r, group="C4").activations,
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


def test_a_form_is_a_tree_of_its_tensors():
    module, x = build("straight-through")
    form = module(x)
    paths = [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(form)[0]]
    assert paths == [".image", ".element", ".activations", ".probabilities", ".vectors"]
    leaves, spec = _pytree.tree_flatten(form)
    again = _pytree.tree_unflatten(leaves, _pytree.treespec_loads(_pytree.treespec_dumps(spec)))
    assert all(getattr(again, path[1:]) is getattr(form, path[1:]) for path in paths)
    assert (again.group, again.padding_mode) == (form.group, form.padding_mode)


#: Layers by how their weight gradient is computed: by our own kernel, as patches in pairs and one by one, by oneDNN.
LAYERS = {
    "direct": ((9, 3, 20, 20), (8, 3, 5, 5), {"stride": 2}),
    "patches": ((3, 3, 32, 32), (16, 3, 8, 8), {"stride": 8}),
    "many channels": ((4, 32, 20, 20), (32, 32, 3, 3), {}),
    "dilated": ((4, 20, 21, 21), (24, 20, 5, 5), {"dilation": 2}),
}


@pytest.mark.parametrize("op", ["orbit_conv2d", "orbit_conv2d_pool"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_weight_gradients_are_the_same_for_any_number_of_threads(layer, dtype, op):
    """In deterministic mode, which the fixture of all tests turns on."""
    x_shape, weight_shape, options = LAYERS[layer]
    x, weight = rand(*x_shape, dtype=dtype), rand(*weight_shape, dtype=dtype, seed=1)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)  # another fixture puts it back
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_(), torch.zeros_like(weight[:, 0, 0, 0])]
        leaves[2].requires_grad_()
        y = getattr(ops, op)(*leaves, group="C4", **options)
        found.append(torch.autograd.grad(y, leaves[1:], rand(*y.shape, dtype=dtype, seed=2)))
        found[-1] += torch.autograd.grad(y := getattr(ops, op)(*leaves, group="C4", **options), leaves, y.detach())
        assert torch.get_num_threads() == threads
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert torch.equal(a, b)
