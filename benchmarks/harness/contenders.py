"""The whole pipeline as each contender runs it, all from the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import equifast
from equifast.orbit_vectors import orbit_vectors

from . import eager, gradients, published
from .network import ConvNetwork
from .settings import CROP, DTYPES, LAYOUTS, Setting, weights

#: How much of a ready orbit ours gives its network at once when the network alone is timed: 32 rows of 3×96×96.
CHUNK_BYTES = 32 * 3 * 96 * 96 * 4

#: How far images may be from each other: float32 coordinates of a 45° rotation are off by 1e-5 pixel and more.
TOLERANCE = {"float32": 2e-3, "bfloat16": 3e-2}


def ours(device: torch.device) -> str:
    """Name of the row of this process's equifast backend, such as ``equifast-cpu``."""
    return f"equifast-{equifast.backends.choose(device.type)}"


class Pipeline:
    """One contender's canonicalizer: `infer`, `step`, and its `network` alone.

    ``infer(x)`` returns the canonical images, the ids and the activations; ``vectors(images)`` what the network makes
    of the orbit of cropped and resized images; ``losses(x)`` the canonical images and the three losses of a training
    step; ``alone(rows)`` what the network makes of a ready orbit. ``note``: a remark for the tables; ``passes``: how
    often a training step runs the network, the second time for the artifact loss; ``estimator``: how the choice gets a
    gradient from the images in a training step.
    """

    note: str = ""
    passes: int = 2
    estimator: str = "straight_through"

    def __init__(self, setting: Setting, device: torch.device, module: nn.Module) -> None:
        self.setting, self.device = setting, device
        self.module = module.to(device, DTYPES[setting.dtype]).to(memory_format=LAYOUTS[setting.layout])

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def vectors(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def losses(self, x: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def alone(self, rows: Tensor) -> Tensor:
        return self.network(rows)

    @property
    def network(self) -> nn.Module:
        return self.module.network

    def train(self, mode: bool) -> Pipeline:
        self.module.train(mode)
        return self

    def dropout(self, p: float) -> None:
        """Outputs of two contenders can be compared only without."""
        for module in self.module.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = p


class Equiadapt(Pipeline):
    """The published package, or its path in our words. Its only estimator is by the angle."""

    estimator = "angle"

    def __init__(self, setting: Setting, device: torch.device, *, artifact: bool = False) -> None:
        state = weights(setting)
        super().__init__(setting, device, published.model(setting, state, device, artifact=artifact))
        self.note = published.note()

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image = self.module.canonicalize(x)
        activations = self.module.activations
        return image, activations.argmax(1), activations

    def vectors(self, images: Tensor) -> Tensor:
        return self.network(self.module.orbit(images))

    def losses(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.module.canonicalize(x), *self.module.losses()


class Eager(Pipeline):
    """Plain PyTorch. ``act``: the quickest of `eager.ACTS` for this setting."""

    def __init__(self, setting: Setting, device: torch.device, *, artifact: bool = False) -> None:
        module = nn.Module()
        module.network = plain_network(setting)
        module.register_buffer("reference", weights(setting)[1])
        super().__init__(setting, device, module)
        self.act = eager.quickest_act(setting, device)
        self.note = self.act.__name__
        self.passes = 1 if eager.exact(setting.group) else 2

    def again(self, rows: Tensor) -> Tensor:
        """The network's second pass of a training step."""
        return self.network(rows)

    def encode(self, images: Tensor) -> Tensor:
        return self.network(eager.orbit(images, self.setting.group))

    def vectors(self, images: Tensor) -> Tensor:
        return self.encode(images)

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(activations, ids)."""
        return self.score(self.encode(eager.crop_resize(x, self.setting)))

    def score(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        activations = eager.scores(vectors, self.module.reference, self.setting.order)
        return activations, activations.argmax(1)

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activations, element = self.choose(x)
        return self.act(x, element, self.setting.group), element, activations

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(members, vectors, activations, ids) of a training step."""
        members = eager.orbit(eager.crop_resize(x, self.setting), self.setting.group)
        vectors = self.network(members)
        return members, vectors, *self.score(vectors)

    def losses(self, x: Tensor) -> tuple[Tensor, ...]:
        group = self.setting.group
        members, vectors, activations, element = self.forward(x)
        image = gradients.ESTIMATORS[self.estimator](x, activations.softmax(1), element, self.setting)
        artifact = eager.artifact(members, vectors, self.again, group)
        return image, eager.prior(activations), eager.contrastive(vectors, self.setting.order), artifact


class Compiled(Eager):
    """`Eager` under ``torch.compile``: one graph from the images to the ids; then eager's quickest act, compiled too
    unless it loops over ids.
    """

    def __init__(self, setting: Setting, device: torch.device, *, artifact: bool = False) -> None:
        super().__init__(setting, device)
        for name in ("vectors", "choose", "forward", "again"):
            setattr(self, name, self.compiled(getattr(self, name)))
        if self.act is not eager.act_by_element:
            self.act = self.compiled(self.act)

    def compiled(self, function: Callable) -> Callable:
        return torch.compile(function, dynamic=False)


class Equifast(Pipeline):
    """This package, as its documentation has it."""

    def __init__(self, setting: Setting, device: torch.device, *, artifact: bool = False) -> None:
        state, reference = weights(setting)
        network = equifast.nn.ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
        network.load_state_dict(state)
        module = equifast.nn.Canonicalizer(
            network,
            setting.group,
            reference=reference,
            learn_reference=False,
            crop=CROP,
            resize=setting.resize,
        )
        module.preprocess.register_forward_hook(self.keep)
        super().__init__(setting, device, module)
        self.passes = 1 if eager.exact(setting.group) else 2

    def keep(self, module: nn.Module, args: tuple, small: Tensor) -> None:
        """Of what the network sees: the second pass of a training step turns it too."""
        self.small = small

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        form = self.module(x)
        return form.image, form.element, form.activations

    def vectors(self, images: Tensor) -> Tensor:
        return orbit_vectors(images, self.network, self.module.group, self.module.padding_mode)

    def losses(self, x: Tensor) -> tuple[Tensor, ...]:
        self.module.estimator = self.estimator
        form = self.module(x)
        return form.image, form.prior_loss(), form.contrastive_loss(), self.artifact(form.vectors)

    def artifact(self, vectors: Tensor) -> Tensor:
        return equifast.losses.artifact_loss(self.small, self.network, group=self.setting.group, vectors=vectors)

    def alone(self, rows: Tensor) -> Tensor:
        if rows.device.type != "cpu" or self.module.training:
            return self.network(rows)
        step = max(CHUNK_BYTES // max(rows[:1].nbytes, 1), 1)
        return torch.cat([self.network(part) for part in rows.split(step)])


class AllPasses(Equifast):
    """Ours with the network's second pass run where `artifact_loss` knows that it would give the same vectors."""

    def __init__(self, setting: Setting, device: torch.device, *, artifact: bool = False) -> None:
        super().__init__(setting, device, artifact=artifact)
        self.passes = 2

    def artifact(self, vectors: Tensor) -> Tensor:
        group = self.setting.group
        members = equifast.orbit(self.small, group)
        element = torch.randint(self.setting.order, members.shape[:1], device=members.device)
        there = equifast.act(members, element, group=group, inverse=True)
        again = self.network(equifast.act(there, element, group=group))
        return torch.nn.functional.mse_loss(again, vectors.transpose(0, 1).flatten(0, 1))


def plain_network(setting: Setting) -> ConvNetwork:
    """The scoring network in plain PyTorch, with the weights that all contenders share."""
    network = ConvNetwork(setting.small, 16, 7, setting.layers, setting.vector)
    network.load_state_dict(weights(setting)[0])
    return network


def pipelines(device: torch.device) -> dict[str, type[Pipeline]]:
    return {"equiadapt": Equiadapt, "eager": Eager, "compile": Compiled, ours(device): Equifast}


def same_choice(got: tuple, expected: tuple, setting: Setting, *, where: Callable | None = None) -> str | None:
    """Whether two canonicalizations agree: activations, ids unless they tie, images of equal ids.

    ``where(ids)`` masks the samples whose image is compared.
    """
    tolerance = TOLERANCE[setting.dtype]
    # On a GPU the networks run in TF32.
    loose = 5 * tolerance if got[0].is_cuda else tolerance
    (image, element, activations), (image_, element_, activations_) = got, expected
    off = (activations.double() - activations_.double()).abs().max().item()
    if off > loose:
        return f"activations differ by {off:.2g}"
    best = activations_.double().topk(2, 1).values
    clear = best[:, 0] - best[:, 1] > 2 * off
    if (clear & (element != element_)).any():
        return "other elements chosen"
    mine = element == element_
    if where is not None:
        mine &= where(element)
    difference = (image[mine].double() - image_[mine].double()).abs()
    worst = difference.max().item() if difference.numel() else 0.0
    return f"images differ by {worst:.2g}" if worst > tolerance else None
