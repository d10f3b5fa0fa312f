"""What runs a trained network at inference without its Python code: frozen by torch.compile, ONNX Runtime, OpenVINO.

ONNX Runtime and OpenVINO run one and the same graph, the exact orbit and the network, on as many threads as torch has.
"""

from __future__ import annotations

import functools
import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import torch
import torch._inductor.config as inductor
from torch import Tensor, nn

from . import contenders, eager
from .measure import COMPILE, EXPORTED
from .settings import Setting

FREEZING = f"{COMPILE} + freezing"

Engine = Callable[[Tensor], Tensor]


class Orbit(nn.Module):
    """The graph that is exported: images (B, C, h, w) → vectors of their orbit (E·B, d)."""

    def __init__(self, network: nn.Module, group: str) -> None:
        super().__init__()
        self.network, self.group = network, group

    def forward(self, images: Tensor) -> Tensor:
        return self.network(eager.orbit(images, self.group))


def exported(setting: Setting) -> bytes:
    """The graph in ONNX, made once for all settings that differ only in the images before the crop."""
    return _exported(replace(setting, size=setting.resize, label=""))


@functools.cache
def _exported(setting: Setting) -> bytes:
    import onnxscript  # noqa: F401  # without it, torch's message names no package

    network = contenders.plain_network(setting).eval()
    images = torch.zeros(setting.batch, *setting.small)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with torch.no_grad(), redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Orbit(network, setting.group).eval(), (images,), dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def onnxruntime(setting: Setting) -> Engine:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads would spin for a while into the turn of the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(exported(setting), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def openvino(setting: Setting, precision: str = "f32") -> Engine:
    """``precision``: "f32" or "bf16", inside; images and vectors are float32."""
    import openvino as ov

    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    core = ov.Core()
    request = core.compile_model(core.read_model(exported(setting), b""), "CPU", options).create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()], share_inputs=True)[0])


class Frozen(contenders.Compiled):
    """`contenders.Compiled` with the weights as constants, which may then be laid out as the layers like them."""

    def compiled(self, function: Callable) -> Callable:
        made = super().compiled(function)
        called = False

        def call(*inputs: Any) -> Any:
            nonlocal called
            if called:
                return made(*inputs)
            called = True
            # As an option of torch.compile it isn't known yet where weights become inputs of the graph.
            with inductor.patch(freezing=True):
                return made(*inputs)

        return call


class OnnxRuntime(contenders.Eager):
    """The engine from images to vectors; everything else as `contenders.Eager` has it."""

    engine = staticmethod(onnxruntime)

    def __init__(self, setting: Setting, device: torch.device, *, artifact: bool = False) -> None:
        super().__init__(setting, device)
        self.encode = self.engine(setting)


class OpenVino(OnnxRuntime):
    """The same."""

    engine = staticmethod(openvino)


def pipelines(device: torch.device) -> dict[str, type[contenders.Pipeline]]:
    """All that compete at inference: `contenders.pipelines`, which also train, and these."""
    more: dict[str, type[contenders.Pipeline]] = {FREEZING: Frozen}
    if device.type == "cpu":
        more |= dict(zip(EXPORTED, (OnnxRuntime, OpenVino), strict=True))
    known = contenders.pipelines(device)
    ours = contenders.ours(device)
    return {name: made for name, made in known.items() if name != ours} | more | {ours: known[ours]}
