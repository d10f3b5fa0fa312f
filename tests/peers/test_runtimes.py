"""Canonicalizers in other runtimes and trainers: ONNX Runtime, Lightning, Fabric, Accelerate."""

import importlib
import io

import pytest
import torch
from torch import nn
from torch.utils import _pytree

import equifast
from equifast import CanonicalForm
from equifast.nn import Canonicalizer, ConvNetwork, EquivariantNetwork, TinyCanonicalizer

from ..cases import assert_near, rand
from . import missing, torchvision


def peer(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing(error)


@pytest.fixture
def lightning():
    torchvision()  # Lightning's metrics import it, where it is installed
    return peer("lightning")


class Direct(nn.Module):
    """The direct method, with the inverse of the canonical images."""

    def __init__(self):
        super().__init__()
        self.network = EquivariantNetwork((3, 16, 16), "C4", 2, 3, 2)

    def forward(self, x):
        form = equifast.canonicalize(x, group="C4", activations=self.network(x))
        return form, form.invert(form.image.square())


def canonicalizer():
    torch.manual_seed(0)
    return Canonicalizer(ConvNetwork((3, 16, 16), 4, 3, 2, 8), "C4")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(canonicalizer, id="C4"),
        pytest.param(lambda: TinyCanonicalizer(3, "D3", channels=8, padding_mode="zeros"), id="D3, which interpolates"),
        pytest.param(Direct, id="direct"),
    ],
)
def test_onnx_runtime_gives_the_same_form(make):
    """Exported once, for batches of any size."""
    runtime = peer("onnxruntime")
    peer("onnxscript")
    torch.manual_seed(0)
    module, batch = make().eval(), {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        program = torch.export.export(module, (rand(3, 3, 16, 16),), dynamic_shapes=(batch,))
    program = torch.onnx.export(program.run_decompositions(equifast.decompositions()), dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for size in (1, 5):
        x = rand(size, 3, 16, 16, seed=size)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            expected = _pytree.tree_leaves(module(x))
        for ours, theirs in zip(found, expected, strict=True):
            assert_near(torch.from_numpy(ours), theirs, 10)


def test_lightning_predicts_forms(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.canonicalizer = canonicalizer()

        def predict_step(self, batch, index):
            return self.canonicalizer(batch)

    module, x = Module(), rand(5, 3, 16, 16)
    silent = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    trainer = lightning.Trainer(accelerator="cpu", logger=False, **silent)
    forms = trainer.predict(module, torch.utils.data.DataLoader(x, batch_size=2))
    assert [type(form) for form in forms] == [CanonicalForm] * 3
    expected = canonicalizer().eval()(x)
    assert_near(torch.cat([form.image for form in forms]), expected.image.detach())
    assert all(form.group == expected.group for form in forms)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_fabric_trains(lightning, precision):
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    module = canonicalizer()
    before = module.reference.detach().clone()
    wrapped, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), 0.1))
    form = wrapped(rand(4, 3, 16, 16))
    assert type(form) is CanonicalForm and form.group.name == "C4"
    fabric.backward(form.image.square().mean() + form.prior_loss())
    optimizer.step()
    assert not torch.equal(before.to(module.reference.dtype), module.reference)


def test_accelerate_sends_forms():
    operations = peer("accelerate.utils.operations")
    form = canonicalizer()(rand(2, 3, 16, 16))
    for moved in (operations.send_to_device(form, "cpu"), operations.convert_to_fp32(form)):
        assert type(moved) is CanonicalForm and torch.equal(moved.image, form.image)
