"""Networks of timm, torchvision, transformers and peft, as they come: fused at once, and right."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from equifast import as_group, canonicalize, lazy_orbit, reference
from equifast.nn import Canonicalizer

from .. import peers
from ..test_lazy_orbit import Counted
from . import torchvision


@pytest.fixture(scope="module")
def libraries():
    """The libraries by name."""
    found = {"torchvision": torchvision()}
    try:
        import peft
        import timm
        import transformers
    except Exception as error:  # what doesn't fit the installed torch raises more than ImportError
        peers.missing(error)
    return found | {"peft": peft, "timm": timm, "transformers": transformers}


def timm_model(name, size=64, **options):
    return lambda found: found["timm"].create_model(name, pretrained=False, **options), size


def torchvision_model(name, size=64, **options):
    return lambda found: getattr(found["torchvision"].models, name)(weights=None, **options), size


def transformers_model(name, config):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}

    def make(found):
        library = found["transformers"]
        return getattr(library, name)(getattr(library, config)(image_size=32, patch_size=8, **sizes))

    return make, 32


def lora(found):
    """A residual network whose first convolution has a low-rank update, with dropout before it."""
    network = found["torchvision"].models.resnet18(weights=None)
    options = found["peft"].LoraConfig(target_modules=["conv1", "fc"], lora_dropout=0.1, init_lora_weights=False)
    return found["peft"].get_peft_model(network, options)


#: How to make a network and the size of its images.
NETWORKS = {
    "resnet18d": timm_model("resnet18d"),
    "vit": timm_model("vit_tiny_patch16_224", depth=1, img_size=64),
    "vit, dynamic size": timm_model("vit_tiny_patch16_224", depth=1, dynamic_img_size=True, dynamic_img_pad=True),
    "deit": timm_model("deit_tiny_distilled_patch16_224", depth=1, img_size=64),
    "swin": timm_model("swin_tiny_patch4_window7_224", 56, img_size=56, depths=(1, 1), num_heads=(3, 6)),
    "convnext": timm_model("convnext_atto", depths=(1, 1, 1, 1)),
    "efficientnet_lite0": timm_model("efficientnet_lite0"),
    "mobilenetv3": timm_model("mobilenetv3_small_050"),
    "features": timm_model("resnet10t", features_only=True),
    "torchvision resnet18": torchvision_model("resnet18"),
    "torchvision resnet50": torchvision_model("resnet50"),
    "torchvision mobilenet_v2": torchvision_model("mobilenet_v2"),
    "transformers ViT": transformers_model("ViTForImageClassification", "ViTConfig"),
    "transformers DINOv2": transformers_model("Dinov2Model", "Dinov2Config"),
    "LoRA": (lora, 64),
}


def tensors(output):
    return [leaf for leaf in tree_leaves(dict(output) if hasattr(output, "keys") else output) if leaf is not None]


@pytest.mark.parametrize("name", NETWORKS)
def test_is_fused_and_right(name, libraries):
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    network = make(libraries).eval()
    for p in network.parameters():  # heads that start at zero would show nothing
        if p.dim() > 1 and not p.any():
            nn.init.normal_(p, std=0.1)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad(), Counted() as counted:
        ours = tensors(lazy_orbit.run(network, x, as_group("C4"), "border"))
        convolutions = 1 if name != "LoRA" else 2
        assert counted.calls == ["orbit_conv2d"] * convolutions
        theirs = tensors(network(reference.orbit(x, "C4")))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18d", "transformers ViT", "transformers DINOv2"])
def test_trains_in_a_canonicalizer(name, libraries):
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    canonicalizer = Canonicalizer(make(libraries), "D4").train()
    form = canonicalizer(torch.rand(2, 3, size, size))
    (form.image.square().mean() + form.prior_loss() + form.contrastive_loss()).backward()
    first = next(module for module in canonicalizer.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.grad.isfinite().all() and canonicalizer.reference.shape == form.vectors.shape[2:]


def test_torchvisions_normalize_and_feature_extractor(libraries):
    """A transform in front, and a traced graph of a network."""
    library = libraries["torchvision"]
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.transforms import v2

    torch.manual_seed(0)
    network = create_feature_extractor(library.models.resnet18(weights=None), {"fc": "vectors"}).eval()
    x = torch.rand(2, 3, 64, 64)
    for normalize in (v2.Normalize, library.transforms.Normalize):
        front = normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))

        def vectors(rows, front=front):
            return network(front(rows))["vectors"]

        with torch.no_grad(), Counted() as counted:
            form = canonicalize(x, vectors, torch.ones(1000), group="C4")
            assert "orbit" not in counted.calls
            expected = vectors(reference.orbit(x, "C4")).unflatten(0, (4, 2)).transpose(0, 1)
        torch.testing.assert_close(form.vectors, expected, rtol=1e-3, atol=1e-3)
