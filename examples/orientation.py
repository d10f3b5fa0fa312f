"""Two judges of which way is up, trained on upright images by the prior loss: a linear one, and a small network."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

import equifast
from equifast import losses, scores

EDGE = 48  # pixels of what the small network sees
BETA = 10.0


def linear(logits: Tensor, steps: int = 30, decay: float = 1e-3) -> Callable[[Tensor], Tensor]:
    """A function of logits (N, E, K) → activations (N, E): confidence and a weight for each class.

    Fitted to logits of the orbits of upright images, whose first member is the right one.
    """
    weights = torch.zeros(logits.shape[2], requires_grad=True)
    scale = torch.ones((), requires_grad=True)

    def activations(logits: Tensor) -> Tensor:
        confident = scores.confidence(logits.flatten(0, 1)).view(logits.shape[:2])
        return scale * confident + logits.log_softmax(2) @ weights

    optimizer = torch.optim.LBFGS([weights, scale], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = losses.prior_loss(activations(logits)) + decay * logits.shape[2] * weights.square().mean()
        total.backward()
        return total

    with torch.inference_mode(False):
        logits = logits.clone()
        optimizer.step(loss)
    return torch.no_grad()(activations)


def shrink(images: Tensor) -> Tensor:
    """RGB from 0 to 255, of any square size, to 48×48, from -1 to 1; commutes with quarter turns."""
    return equifast.crop_resize(images, size=EDGE) / 127.5 - 1


def small(images: Tensor, steps: int, batch: int = 24) -> equifast.nn.Canonicalizer:
    """A canonicalizer of images (N, 3, 48, 48), trained on upright ones by the prior and the contrastive loss."""
    torch.manual_seed(0)
    network = equifast.nn.ConvNetwork((3, EDGE, EDGE), out_channels=16, kernel_size=5, num_layers=3, out_vector_size=64)
    module = equifast.nn.Canonicalizer(network, "C4", beta=BETA)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps + 1)
    module.train()
    for _ in tqdm(range(steps), desc="training the small network", ncols=100, leave=False):
        x = varied(images[torch.randint(len(images), (batch,))])
        form = module(x)
        loss = form.prior_loss(beta=BETA) + 0.001 * form.contrastive_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def varied(images: Tensor) -> Tensor:
    """The images as upright as before: half of them mirrored, all of them brighter or darker, and moved a little."""
    x = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    x = x * (0.7 + 0.6 * torch.rand(len(x), 1, 1, 1))
    down, right = torch.randint(-4, 5, (2,)).tolist()
    return x.roll((down, right), (2, 3))


def activations(module: equifast.nn.Canonicalizer) -> Callable[[Tensor], Tensor]:
    """Its activations (N, 4) of images (N, 3, 48, 48)."""
    return torch.inference_mode()(lambda images: module(images).activations)


def whole(module: equifast.nn.Canonicalizer) -> equifast.nn.Canonicalizer:
    """The same for images of any size, shrunk before the network sees them."""
    return equifast.nn.Canonicalizer(
        module.network, module.group, reference=module.reference, beta=module.beta, preprocess=shrink
    ).eval()
