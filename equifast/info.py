"""`python -m equifast.info [--json]`: versions, build, devices, and each backend usable or the reason.

Every probe is guarded, and nothing but the standard library is imported outside one: this is what to run when
all else fails.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

VECTOR_BITS = {"baseline": 128, "avx2": 256, "avx512": 512, "amx": 512}
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TRITON_INTERPRET",
)


def guarded(probe: Callable[[], object]) -> object:
    """The probe's answer, or its failure as text."""
    try:
        return probe()
    except Exception as error:
        return f"error: {type(error).__name__}: {' '.join(str(error).split())}"


def versions() -> dict:
    def installed(name):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    def imported_torch():
        import torch

        return torch.__version__

    def equifast_version():
        import equifast

        return equifast.__version__

    return {
        "equifast": guarded(equifast_version),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": guarded(imported_torch),
        "triton": guarded(lambda: installed("triton")),
        "numpy": guarded(lambda: installed("numpy")),
    }


def copies() -> list[Path]:
    """Folders of every equifast that this Python could import: along its path, and where editable installs point."""
    roots = [Path(entry or ".") for entry in sys.path]
    for distribution in metadata.distributions(name="equifast"):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            roots.append(Path(url2pathname(urlsplit(origin["url"]).path)))
    places = dict.fromkeys(root.resolve() / "equifast" for root in roots)
    return [place for place in places if (place / "__init__.py").exists()]


def copy() -> dict:
    """Which equifast this is. Python imports the first on its path, where the current folder precedes site-packages."""
    package = Path(__file__).resolve().parent
    others = [str(place) for place in copies() if place != package]
    in_source_tree = (package.parent / "setup.py").exists()
    found = {"imported": f"{package} ({'source tree' if in_source_tree else 'installed'})", "hidden": others}
    if others:
        elsewhere = "start Python in another folder, or run `pip install -e .` in the source tree"
        advice = elsewhere if in_source_tree else "uninstall the one that you don't want"
        found["warning"] = f"{others[0]} is here too, and not what this report is about: {advice}"
    return found


def build() -> dict:
    import equifast.backends.native as native  # without torch, `from equifast import` would fail

    return native.build_info() or {"native": False, "reason": native.NEVER_BUILT}


def cpu() -> dict:
    def kernels():
        import equifast.backends.helper as helper

        helper.library()
        return {
            "isa": guarded(helper.isa),
            "vector_bits": guarded(lambda: VECTOR_BITS[helper.isa()]),
            "isas_built": helper.isas_built(),
            "isas_supported": helper.supported_isas(),
        }

    def threads():
        import torch

        return torch.get_num_threads()

    def torch_capability():
        import torch

        return torch.backends.cpu.get_cpu_capability()

    facts = guarded(kernels)
    return {
        "cores": os.cpu_count(),
        "threads": guarded(threads),
        **(facts if isinstance(facts, dict) else {"helper": facts}),
        "torch_capability": guarded(torch_capability),
    }


def cuda() -> dict:
    import torch

    def device(index):
        properties = torch.cuda.get_device_properties(index)
        return {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
        }

    return {
        "torch_built_for": torch.version.cuda or "no CUDA",
        "devices": guarded(lambda: [device(index) for index in range(torch.cuda.device_count())]),
    }


def backends() -> dict:
    from equifast import backends

    return {
        **{name: reason or "usable" for name, reason in backends.available().items()},
        "chosen": {device: guarded(partial(backends.choose, device)) for device in ("cpu", "cuda")},
    }


def selection() -> dict:
    """Which backend serves a call where `cuda` and `triton` both can."""
    from equifast import backends
    from equifast.backends import selection

    def between():
        names = backends.contenders("cuda")
        return " and ".join(names) if len(names) > 1 else f"nothing to select: CUDA tensors run on {names[0]}"

    return {"between": guarded(between), "rule": selection.RULE}


def tuned() -> dict:
    """Configurations of Triton kernels that were timed on this machine, by device."""
    from equifast.kernels.host import tuned

    return tuned.load()


def environment() -> dict:
    return {k: v for k, v in sorted(os.environ.items()) if k.startswith("EQUIFAST_") or k in VARIABLES}


def collect() -> dict:
    """Everything that the command prints, as JSON-compatible values."""
    sections = (versions, copy, build, cpu, cuda, backends, selection, tuned, environment)
    return {section.__name__: guarded(section) for section in sections}


def lines(section: dict, indent: str = "") -> Iterator[str]:
    """The same, to be read by a person."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:" if value else f"{indent}{key}: none"
            yield from lines(value, indent + "  ")
        else:
            items = value if isinstance(value, list) else [value]
            text = ", ".join(item if isinstance(item, str) else json.dumps(item, default=str) for item in items)
            yield f"{indent}{key + ':':<18} {text or 'none'}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m equifast.info", description="What equifast finds here.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    found = collect()
    print(json.dumps(found, indent=2, default=str) if options.json else "\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
