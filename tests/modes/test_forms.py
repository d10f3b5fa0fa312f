"""The canonical form is that of a plain call in every mode of PyTorch, for every kind of canonicalizer."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.autograd import forward_ad
from torch.utils import _pytree

import equifast
from equifast import CanonicalForm

from ..cases import assert_near
from .modules import build, cases


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


def test_a_form_is_a_tree_of_its_tensors():
    module, x = build("straight-through")
    form = module(x)
    paths = [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(form)[0]]
    assert paths == [".image", ".element", ".activations", ".probabilities", ".vectors"]
    leaves, spec = _pytree.tree_flatten(form)
    again = _pytree.tree_unflatten(leaves, _pytree.treespec_loads(_pytree.treespec_dumps(spec)))
    assert all(getattr(again, path[1:]) is getattr(form, path[1:]) for path in paths)
    assert (again.group, again.padding_mode) == (form.group, form.padding_mode)
