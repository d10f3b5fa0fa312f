"""equiadapt's own tutorials, configurations, training and inference code, run with the import lines changed.

The code is read from the installed package when a test runs. It is run twice, with equiadapt and with the stand-ins, on
the same small data, and everything it computes is compared. What it imports beside equiadapt (Lightning, torchmetrics,
data sets, large models) is replaced by the least that it can run with.
"""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from . import OURS, THEIRS, cells, equiadapt, load, path

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages that this code imports


def ramps(count, height, width, seed=0):
    """Images (count, 3, height, width): planes within 13 pixels of the centre, noise around.

    Where an image has a kink, its derivative by the angle has two values. equiadapt takes the one that rounding errors
    choose, see docs/equiadapt.md; a plane has one. The task networks here see no more than that plane. The noise is for
    the canonicalization networks, whose normalizations would divide by next to nothing on planes.
    """
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(2, count, 3, 1, 1, generator=generator) / 40
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in (height, width))
    noise = torch.rand(count, 3, height, width, generator=generator)
    inside = rows[:, None] ** 2 + columns**2 < 13**2
    return torch.where(inside, slopes[0] * rows[:, None] + slopes[1] * columns + 0.5, noise)


class Central(nn.Module):
    """A prediction network that sees the middle of an image, which no padding reaches."""

    def __init__(self, size, outputs):
        super().__init__()
        self.size, self.predictor = size, nn.Linear(3 * size * size, outputs)

    def forward(self, x):
        top, left = ((n - self.size) // 2 for n in x.shape[2:])
        return self.predictor(x[:, :, top : top + self.size, left : left + self.size].flatten(1))


class Boxes(nn.Module):
    """In the place of a segmentation model: it is asked with boxes, and answers with filled boxes as masks."""

    def forward(self, images, targets):
        height, width = images.shape[2:]
        rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        outputs = []
        for target in targets:
            x1, y1, x2, y2 = (t[:, None, None] for t in target["boxes"].unbind(1))
            masks = ((columns > x1) & (columns < x2) & (rows > y1) & (rows < y2)).to(torch.uint8)
            scores = torch.ones(len(masks))
            outputs.append({"boxes": target["boxes"], "labels": target["labels"], "scores": scores, "masks": masks})
        middle = images[:, :, height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4]
        return {"loss": middle.square().mean()}, None, None, outputs


class Overlap:
    """In the place of torchmetrics' mean average precision: the mean overlap of masks, pair by pair."""

    def __init__(self, iou_type):
        assert iou_type == "segm"

    def update(self, outputs, targets):
        pairs = [(o["masks"] > 0, t["masks"] > 0) for o, t in zip(outputs, targets, strict=True)]
        overlaps = [(a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1) for a, b in pairs]
        self.overlap = torch.cat(overlaps).mean()

    def compute(self):
        sizes = ("", "_small", "_medium", "_large", "_50", "_75")
        recalls = ("_1", "_10", "_100", "_small", "_medium", "_large")
        names = [f"map{size}" for size in sizes] + [f"mar{recall}" for recall in recalls]
        return dict.fromkeys(names, self.overlap)


class LightningModule(nn.Module):
    device = torch.device("cpu")
    trainer = types.SimpleNamespace(max_epochs=6)

    def log_dict(self, metrics, **kwargs):
        self.logged = metrics

    def save_hyperparameters(self):
        pass


def stub(monkeypatch, name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def both(run):
    """What ``run(package)`` returns for equiadapt and for the stand-ins, from the same seed."""
    results = []
    for package in (THEIRS, OURS):
        torch.manual_seed(0)
        results.append(run(package))
    return results


def assert_same(theirs, ours, tolerance=1e-4):
    """Nested results that agree within ``tolerance``, absolute and relative."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    equiadapt()


# The tutorials.


class Pictures(torch.utils.data.Dataset):
    """In the place of CIFAR-10."""

    def __init__(self, root, train, download, transform):
        from torchvision.transforms.functional import to_pil_image

        coarse = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        images = F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)
        self.images, self.transform = [to_pil_image(image) for image in images], transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images[i]), i


def test_tutorial_understanding_discrete_canonicalization(monkeypatch):
    from matplotlib import pyplot
    from torchvision import datasets

    monkeypatch.setattr(datasets, "CIFAR10", Pictures)
    # Dropout differs on purpose, so here there is none in either network.
    monkeypatch.setattr(nn.Dropout1d, "forward", lambda self, x: x)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    sizes = {
        "batch_size=512": "batch_size=4",
        "num_epochs = 15": "num_epochs = 2",
        "out_channels=16": "out_channels=4",
        "kernel_size= 9": "kernel_size= 5",
        "resize_shape = 64": "resize_shape = 32",
        "    in_shape = image_shape,\n    out_channels": "    in_shape = (3, 32, 32),\n    out_channels",
        "num_layers = 3": "num_layers = 2",
    }
    name = "tutorials/images/understanding_discrete_canonicalization.ipynb"
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(None) or pyplot.close("all"))

    def run(package):
        names, results = {}, []
        for code in cells(name, package, sizes):
            torch.manual_seed(1)
            exec(code, names)
            results += [names[key] for key in ("avg_loss", "avg_prior_loss", "identity_metric") if key in names]
            if "canonicalizer" in names:
                assert type(names["canonicalizer"]).__module__.startswith(package + ".")
                results.append({key: value.clone() for key, value in names["canonicalizer"].state_dict().items()})
        return results

    theirs, ours = both(run)
    # A new network of theirs has seen an image of zeros already.
    for state in [*theirs, *ours]:
        if isinstance(state, dict):
            for key in [key for key in state if "running" in key or "tracked" in key]:
                del state[key]
    assert len(shown) == 12 and len(theirs) > 20
    assert_same(theirs, ours, 2e-2)


def test_tutorial_classification(monkeypatch):
    pictures = ramps(8, 64, 64)
    labels = torch.arange(8) % 10
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pictures, labels), batch_size=4)

    class Data:
        def __init__(self, hyperparams):
            assert hyperparams.dataset_name == "stl10"

        def setup(self, stage="fit"):
            pass

        def train_dataloader(self):
            return loader

        test_dataloader = train_dataloader

    stub(monkeypatch, "examples.images.classification.prepare", STL10DataModule=Data)
    stub(
        monkeypatch,
        "examples.images.classification.model_utils",
        get_prediction_network=lambda num_classes, **kwargs: Central(16, num_classes),
    )
    sizes = {
        "(3, 224, 224)": "(3, 64, 64)",
        "resize_shape = 96": "resize_shape = 32",
        '"out_channels": 32': '"out_channels": 4',
        "epochs = 20": "epochs = 2",
    }
    name = "tutorials/images/classification_group_equivariant_canonicalization.ipynb"

    def run(package):
        helper = "examples.images.classification.inference_utils"
        load(monkeypatch, helper, "examples/images/classification/inference_utils.py", package)
        names, results = {}, []
        for code in cells(name, package, sizes):
            torch.manual_seed(1)
            exec(code, names)
            keys = ("total_loss", "total_task_loss", "total_prior_loss", "total_acc", "total_group_acc")
            results += [float(names[key]) for key in keys if key in names]
        return results, names["canonicalizer"].state_dict()

    theirs, ours = both(run)
    assert_same(theirs[0], ours[0], 1e-3)
    assert_same(theirs[1], ours[1], 1e-2)


def test_tutorial_instance_segmentation(monkeypatch):
    from matplotlib import pyplot
    from PIL import Image

    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    overlays = []

    def overlay(image, masks, beta, return_type):
        overlays.append(torch.from_numpy(masks.copy()))
        return Image.new("RGB", (8, 8))

    stub(monkeypatch, "segmentation_mask_overlay", overlay_masks=overlay)
    stub(
        monkeypatch, "examples.images.segmentation.model_utils", get_prediction_network=lambda **kwargs: Boxes().eval()
    )
    sizes = {
        "resize_shape = 128": "resize_shape = 32",
        '"out_channels": 64': '"out_channels": 8',
        '"kernel_size": 5': '"kernel_size": 3',
        '"num_layers": 12': '"num_layers": 3',
        # The published weights are for the published size: see test_published_checkpoint.
        'canonicalization_network.load_state_dict(torch.load("utils/equivariant_wrn_c4.pt"))': "",
        "torch.tensor(180.)": "torch.tensor(90.)",
    }
    name = "tutorials/images/instance_segmentation_group_equivariant_canonicalization.ipynb"
    monkeypatch.chdir(path(name).parent)

    def run(package):
        overlays.clear()
        names = {}
        for code in cells(name, package, sizes):
            exec(code, names)
        info = names["canonicalizer"].canonicalization_info_dict
        return list(overlays), [t["boxes"] for t in names["targets"]], [t["masks"] for t in names["targets"]], info

    theirs, ours = both(run)
    assert len(theirs[0]) == 8
    for a, b in zip(theirs[0] + theirs[2], ours[0] + ours[2], strict=True):
        assert (a != b).float().mean() < 1e-4
    assert_same(theirs[1], ours[1], 1e-3)
    assert_same(theirs[3], ours[3])


@pytest.mark.slow
def test_published_checkpoint():
    """The published weights of the segmentation tutorial, at their size, on one of its photographs."""
    from equifast.compat.equiadapt import ESCNNWRNEquivariantNetwork, GroupEquivariantImageCanonicalization

    network = ESCNNWRNEquivariantNetwork((3, 1024, 1024), 64, 5, "rotation", 12, 4).eval()
    folder = path("tutorials/images/utils")
    network.load_state_dict(torch.load(folder / "equivariant_wrn_c4.pt", map_location="cpu"))
    settings = {"beta": 1.0, "input_crop_ratio": 0.9, "resize_shape": 128}
    module = GroupEquivariantImageCanonicalization(network, settings, (3, 1024, 1024)).eval()
    picture = torch.load(folder / "sample_data.pt", map_location="cpu")[0][0]
    with torch.no_grad():
        images = module(torch.stack((picture, torch.rot90(picture, 1, (1, 2)))))
    assert torch.equal(images[0], images[1])
    # It was trained to leave upright photographs as they are.
    assert module.canonicalization_info_dict["group_element"]["rotation"].tolist() == [0, 90]


# The training and inference code, on its own configurations.


@pytest.fixture
def configuration(monkeypatch, tmp_path):
    """``configuration(task, method, **changes)``: the published one of "classification" or "segmentation"."""
    import hydra

    for variable in ("HYDRA_JOBS", "DATA_PATH", "CHECKPOINT_PATH", "WANDB_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))

    def make(task, method, **changes):
        folder = str(path(f"examples/images/{task}/configs"))
        changes = [f"{key}={value}" for key, value in changes.items()]
        # The published defaults for segmentation name a group of options that isn't there.
        (tmp_path / "wandb").mkdir(exist_ok=True)
        (tmp_path / "wandb" / "default.yaml").write_text("use_wandb: 0\n")
        changes.append(f"hydra.searchpath=[file://{tmp_path}]")
        with hydra.initialize_config_dir(version_base=None, config_dir=folder):
            options = hydra.compose("default", [f"canonicalization={method}", "device=cpu", *changes])
        options.canonicalization_type = options.canonicalization.canonicalization_type
        return options

    return make


def small(method):
    if method == "identity":
        return {}
    width = {"canonicalization.network_hyperparams.out_channels": 4, "canonicalization.resize_shape": 32}
    if not method.startswith("opt"):
        return width
    return width | {"canonicalization.network_hyperparams.kernel_size": 5, "canonicalization.artifact_err_wt": 10}


def pipeline(monkeypatch, task, package):
    """The training module of that task, over ``package``."""
    folder = f"examples/images/{task}"
    stub(monkeypatch, "pytorch_lightning", LightningModule=LightningModule)
    load(monkeypatch, "examples.images.common.utils", "examples/images/common/utils.py", package)
    load(monkeypatch, "inference_utils", f"{folder}/inference_utils.py", package)
    return load(monkeypatch, "model", f"{folder}/model.py", package)


METHODS = [
    ("group_equivariant", {}),
    ("group_equivariant", {"canonicalization.network_hyperparams.num_rotations": 8}),
    ("group_equivariant", {"canonicalization.network_type": "custom"}),
    ("opt_group_equivariant", {}),
    ("opt_group_equivariant", {"canonicalization.num_rotations": 8}),
    ("identity", {}),
]


@pytest.mark.parametrize(("method", "changes"), METHODS)
def test_classification(monkeypatch, configuration, method, changes):
    monkeypatch.setattr(nn.Dropout1d, "forward", lambda self, x: x)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    shape = (3, 50, 50)  # whose crop has the centre of the image for its own
    stub(
        monkeypatch,
        "model_utils",
        get_dataset_specific_info=lambda name: (nn.CrossEntropyLoss(), shape, 5),
        get_prediction_network=lambda num_classes, **kwargs: Central(16, num_classes),
    )
    kind = {"experiment.training.loss.group_contrast_weight": 0.1}
    options = configuration("classification", method, **small(method), **kind, **changes)
    batch = ramps(6, *shape[1:]), torch.arange(6) % 5

    def run(package):
        custom = changes.get("canonicalization.network_type") == "custom"
        model = pipeline(monkeypatch, "classification", package).ImageClassifierPipeline
        if custom and package == THEIRS:
            teach_custom_network(monkeypatch)
        model = model(options)
        assert type(model.canonicalizer).__module__.startswith(package + ".")
        optimizer = model.configure_optimizers()
        optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
        forget_the_image_of_zeros(model)
        torch.manual_seed(2)
        results = model.train().training_step(batch)
        results["loss"].backward()
        results |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results |= model.logged
        model.eval()
        with torch.no_grad():
            results |= model.validation_step(batch) | model.test_step(batch)
        optimizer.step()
        return results

    theirs, ours = both(run)
    assert theirs.keys() == ours.keys()
    # An artifact term of a C4 on squares is rounding errors there and 0 here.
    assert_same(theirs, ours, 1e-3)


def teach_custom_network(monkeypatch):
    """Their plain network doesn't say what its group is, so their canonicalizer can't be built on it."""
    kind = equiadapt().CustomEquivariantNetwork
    original = kind.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.group_type, self.num_rotations = kwargs["group_type"], kwargs["num_rotations"]

    monkeypatch.setattr(kind, "__init__", init)


def forget_the_image_of_zeros(model):
    """Their ConvNetwork runs on zeros to find out its size, and keeps what its normalizations saw."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()


@pytest.mark.parametrize(("method", "changes"), [pair for pair in METHODS if "network_type" not in str(pair)])
def test_segmentation(monkeypatch, configuration, method, changes):
    monkeypatch.setattr(nn.Dropout1d, "forward", lambda self, x: x)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    shape = (3, 50, 50)  # whose crop has the centre of the image for its own
    stub(monkeypatch, "torchmetrics")
    stub(monkeypatch, "torchmetrics.detection")
    stub(monkeypatch, "torchmetrics.detection.mean_ap", MeanAveragePrecision=Overlap)
    stub(
        monkeypatch,
        "model_utils",
        calc_iou=None,
        get_dataset_specific_info=lambda *names: (None, shape, 91),
        get_prediction_network=lambda **kwargs: Boxes(),
    )
    kind = {"experiment.training.loss.group_contrast_weight": 0.1, "experiment.training.loss.task_weight": 1}
    if method == "group_equivariant":
        kind["canonicalization.network_hyperparams.num_layers"] = 3
    options = configuration("segmentation", method, **small(method), **kind, **changes)
    images = ramps(4, *shape[1:], seed=3)

    def batch():
        targets = []
        for i in range(len(images)):
            boxes = torch.tensor([[5.0 + i, 8.0, 30.0, 26.0], [20.0, 12.0 + i, 44.0, 40.0]])
            masks = Boxes()(images[:1], [{"boxes": boxes, "labels": None}])[3][0]["masks"]
            targets.append({"boxes": boxes, "masks": masks, "labels": torch.tensor([1, 2])})
        return list(images), targets

    def run(package):
        model = pipeline(monkeypatch, "segmentation", package).ImageSegmentationPipeline(options)
        forget_the_image_of_zeros(model)
        torch.manual_seed(2)
        model.train()
        results = dict(model.training_step(batch()))
        if results["loss"].requires_grad:
            results["loss"].backward()
        results |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results |= model.logged
        model.eval()
        with torch.no_grad():
            results |= model.validation_step(batch()) | model.logged | model.test_step(batch())
        return results

    theirs, ours = both(run)
    assert theirs.keys() == ours.keys()
    # Masks are counted in pixels, of which few round otherwise; boxes at 45° differ on purpose.
    masks = {key for key in theirs if "map" in key or "mar" in key}
    assert_same({k: theirs[k] for k in theirs.keys() - masks}, {k: ours[k] for k in ours.keys() - masks}, 1e-3)
    assert masks
    if 8 not in changes.values():
        assert_same({key: theirs[key] for key in masks}, {key: ours[key] for key in masks}, 1e-2)
