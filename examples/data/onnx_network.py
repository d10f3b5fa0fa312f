"""Networks in ONNX, converted to PyTorch by onnx2torch."""

import sys
import types
import warnings

import torch

from .archives import load

#: What onnx2torch imports of torchvision, and needs for detectors with regions only.
UNUSED = ("nms", "batched_nms", "roi_align", "RoIAlign", "DeformConv2d")

warnings.filterwarnings("ignore", message="Using a non-tuple sequence", module="onnx2torch")


def from_onnx(raw: bytes) -> torch.nn.Module:
    """A network that was saved in ONNX, as a module of PyTorch."""
    import onnx  # the only place that needs it
    from onnx import version_converter

    model = onnx.load_model_from_string(raw)
    _constants_to_weights(model.graph)
    return _onnx2torch().convert(version_converter.convert_version(model, 15))


def _constants_to_weights(graph) -> None:
    """PaddlePaddle saves weights as nodes of their own, where onnx2torch doesn't look for them."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = node.attribute[0].t
        value.name = node.output[0]
        graph.initializer.append(value)
        graph.node.remove(node)


def _onnx2torch():
    """The converter, out of its wheel. An empty module stands in for torchvision, which needs a torch with CUDA."""
    stand_ins = {"torchvision": types.ModuleType("torchvision"), "torchvision.ops": types.ModuleType("torchvision.ops")}
    for name in UNUSED:
        setattr(stand_ins["torchvision.ops"], name, None)
    stand_ins["torchvision"].ops = stand_ins["torchvision.ops"]
    real = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        return load("onnx2torch", "onnx2torch")
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(real)
