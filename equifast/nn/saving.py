"""Canonicalizers in folders: the weights as safetensors, and a JSON file that tells what they are the weights of."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .. import scores
from .conv_network import ConvNetwork
from .crop_resize import CropResize
from .orbit_conv2d_pool import PooledOrbitConv2d

#: Names in the folder, as models of transformers have them too.
CONFIG, WEIGHTS = "config.json", "model.safetensors"

#: Is written into every file. A later version that writes other fields gets another number.
FORMAT = 1

#: Attributes of a canonicalizer that are written as they are.
OPTIONS = ("beta", "similarity", "estimator", "padding_mode", "gate", "refine")

#: What stands in the JSON file for a module or a function that `from_pretrained` has to be given again.
GIVEN = "given"


def _conv_network(network: ConvNetwork) -> dict[str, Any]:
    first = network.enc_network[0]
    assert isinstance(first, nn.Conv2d)
    return {
        "in_shape": network.in_shape,
        "out_channels": first.out_channels,
        "kernel_size": first.kernel_size[0],
        "num_layers": len(network.enc_network) // 3,
        "out_vector_size": network.out_vector_size,
    }


def _pooled_orbit_conv2d(layer: PooledOrbitConv2d) -> dict[str, Any]:
    out_channels, in_channels, *kernel_size = layer.weight.shape
    names = ("stride", "padding", "dilation", "activation", "padding_mode")
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": kernel_size,
        "group": layer.orbit_group.name,
        "bias": layer.bias is not None,
        **{name: getattr(layer, name) for name in names},
    }


def _crop_resize(preprocess: CropResize) -> dict[str, Any]:
    return {"crop": preprocess.crop, "resize": preprocess.resize}


#: The modules that the JSON file describes, by the name of their class: it, and the arguments that make one alike.
DESCRIBED: dict[str, tuple[type[nn.Module], Callable[[Any], dict[str, Any]]]] = {
    "ConvNetwork": (ConvNetwork, _conv_network),
    "PooledOrbitConv2d": (PooledOrbitConv2d, _pooled_orbit_conv2d),
    "CropResize": (CropResize, _crop_resize),
}


def save(module: Any, folder: str | Path) -> None:
    """Write a `Canonicalizer`; see `Canonicalizer.save_pretrained`."""
    save_model = _safetensors().torch.save_model
    if module.reference is not None and is_lazy(module.reference):
        raise ValueError("reference: not initialized; call the module once before it is saved, or give vector_size")
    reference = module.reference
    config = {
        "format": FORMAT,
        "equifast": sys.modules["equifast"].__version__,
        "torch": torch.__version__,
        "group": module.group.name,
        **{name: getattr(module, name) for name in OPTIONS},
        "network_dtype": module.network_dtype and str(module.network_dtype).removeprefix("torch."),
        "vector_size": None if reference is None else len(reference),
        "learn_reference": reference is None or isinstance(reference, nn.Parameter),
        "network": _described(module.network),
        "preprocess": _described(module.preprocess),
        "score": module.score and _name_of_score(module.score),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(module, str(folder / WEIGHTS))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _described(module: object) -> dict[str, Any] | str | None:
    """``{"type": …, arguments}`` of a module that its class makes anew, else `GIVEN`."""
    if module is None:
        return None
    name = type(module).__name__
    if name not in DESCRIBED or type(module) is not DESCRIBED[name][0]:
        return GIVEN
    cls, arguments_of = DESCRIBED[name]
    arguments = arguments_of(module)
    with torch.device("meta"):
        same = cls(**arguments)
    return {"type": name, **arguments} if _shapes(same) == _shapes(module) else GIVEN  # GIVEN: someone has edited it


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in module.state_dict().items()}


def _name_of_score(score: object) -> str:
    name, _ = scores.named(score)
    return name if name in scores.NAMED else GIVEN


def options_of(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Canonicalizer` that the JSON file describes, with what was ``given`` in their places.

    Raises:
        ValueError: naming what is missing, what does not fit, or what this version does not know.
    """
    config = json.loads((folder / CONFIG).read_text())
    if config.get("format") != FORMAT:
        found = config.get("format")
        raise ValueError(f"{folder / CONFIG}: expected format {FORMAT}, got {found}; a newer equifast may read it")
    expected = {"group", "vector_size", "learn_reference", "network_dtype", "network", "preprocess", "score", *OPTIONS}
    if lacking := sorted(expected - config.keys()):
        raise ValueError(f"{folder / CONFIG}: lacks {', '.join(lacking)}")
    options = {name: config[name] for name in ("group", "vector_size", "learn_reference", *OPTIONS)}
    options["network_dtype"] = config["network_dtype"] and getattr(torch, config["network_dtype"])
    for name in ("network", "preprocess", "score"):
        options[name] = _part(name, config[name], given.get(name), folder)
    return options


def _part(name: str, description: dict[str, Any] | str | None, given: object, folder: Path) -> object:
    if given is not None:
        if description is None:
            raise ValueError(f"{name}: expected None, since the canonicalizer in {folder} has none")
        return given
    if description == GIVEN:
        raise ValueError(f"{name}: needed, since that of the canonicalizer in {folder} is none of equifast's own")
    if description is None:
        return None
    if isinstance(description, str):
        if description not in scores.NAMED:
            place = folder / CONFIG
            raise ValueError(f"{name}: expected a function of equifast.scores in {place}, got {description!r}")
        return scores.NAMED[description]
    if description.get("type") not in DESCRIBED:
        known = ", ".join(DESCRIBED)
        raise ValueError(f"{name}: expected one of {known} in {folder / CONFIG}, got {description.get('type')!r}")
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in description.items() if key != "type"}
    return DESCRIBED[description["type"]][0](**arguments)


def load_weights(module: Any, folder: Path) -> None:
    """Read the weights into a `Canonicalizer`.

    Raises:
        ValueError: naming each tensor that one side lacks, or that has another shape.
    """
    with _safetensors().safe_open(str(folder / WEIGHTS), framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, this is no dict
        aliases = file.metadata() or {}  # a tensor with several names is saved under one of them
    state = module.state_dict()
    wrong = [f"{name}: missing in {folder}" for name in sorted(state.keys() - saved.keys() - aliases.keys())]
    wrong += [f"{name}: not part of the module" for name in sorted(saved.keys() - state.keys())]
    for name in sorted(saved.keys() & state.keys()):
        if saved[name].shape != state[name].shape:
            wrong.append(f"{name}: expected {tuple(state[name].shape)}, got {tuple(saved[name].shape)}")
    if wrong:
        raise ValueError("; ".join(wrong))
    module.load_state_dict(saved, strict=False)


def folder_of(source: str | Path, revision: str | None) -> Path:
    """A local folder, or that of a repository of the Hugging Face Hub, which is downloaded if need be."""
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(f"{source}: found no such folder; for the Hub, pip install huggingface_hub") from error
    return Path(snapshot_download(str(source), revision=revision, allow_patterns=[CONFIG, WEIGHTS]))


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("saving and loading need the package safetensors: pip install safetensors") from error
    return safetensors
