"""What is kept of one launch must not serve another."""

import itertools

import torch

from equifast import kernels
from equifast.kernels.host.launch import Kernel

from ..samples import samples


def test_a_key_stands_for_all_of_a_launch(monkeypatch):
    """Whatever else was launched before, what is kept for a key is what would be worked out anew. Nothing runs."""
    known = {}

    def launch(kernel, key, tensors, problem, *reals):
        made = problem()
        grids = [made.grid(config.constants) for config in made.configs]
        constants = {name: str(value) for name, value in made.constants.items()}
        found = made.scalars, constants, grids, list(map(str, made.configs))
        before = known.setdefault((kernel.name, key, *(t is None for t in tensors)), found)
        assert found == before, f"{kernel.name}: one key, {key}, for two problems"

    monkeypatch.setattr(Kernel, "launch", launch)
    layouts = ("contiguous", "channels_last", "one_channel", "one_image", "transposed")
    for dtype, layout, batch in itertools.product((torch.float32, torch.bfloat16, torch.float64), layouts, (3, 1, 2)):
        for sample in samples(dtype, batch=batch, layout=layout):
            if sample.op in kernels.FILES:
                sample.run()
    assert known
