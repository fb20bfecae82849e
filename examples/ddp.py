"""Tells balanced strings of brackets from others, as brackets.py does, by PyTorch on several processes: each takes a
share of every batch, and DistributedDataParallel averages their gradients.

torchrun --nproc-per-node 2 examples/ddp.py
python examples/ddp.py                          # one process
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import fusedrnn.torch as frt

STEPS, BATCH, HIDDEN, LONGEST = int(sys.argv[1]) if len(sys.argv) > 1 else 300, 64, 32, 40
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torchrun sets both


def strings(count, seed):
    """Strings of 2 to 40 brackets as (count, 40), +1, -1 and 0 past their ends; their lengths; 1 for balanced ones."""
    generator = torch.Generator().manual_seed(seed)

    def below(n):
        return int(torch.randint(n, (), generator=generator))

    brackets = torch.zeros(count, LONGEST)
    for row in brackets:
        text, depth = [], 0
        for left in range(2 + 2 * below(LONGEST // 2), 0, -1):
            text.append(1 if depth == 0 or (depth < left and below(2)) else -1)
            depth += text[-1]
        if below(10) < 7:  # an opening and a closing bracket change places, which may leave the string balanced
            opening, closing = ([i for i, b in enumerate(text) if b == bracket] for bracket in (1, -1))
            text[opening[below(len(opening))]], text[closing[below(len(closing))]] = -1, 1
        row[: len(text)] = torch.tensor(text)
    lengths = (brackets != 0).sum(dim=1)
    return TensorDataset(brackets, lengths, (brackets.cumsum(dim=1).amin(dim=1) >= 0).long())


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = frt.LSTM(1, HIDDEN, num_layers=2, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * HIDDEN, 2)

    def forward(self, brackets, lengths):
        _, (h_n, _) = self.lstm(brackets.unsqueeze(-1), lengths=lengths)
        return self.linear(torch.cat([h_n[-2], h_n[-1]], dim=1))  # of the highest layer, both directions


def share(data, seed):
    """Batches of this process's share of the data."""
    sampler = DistributedSampler(data, num_replicas=WORLD, rank=RANK, seed=seed)
    return sampler, DataLoader(data, batch_size=BATCH // WORLD, sampler=sampler, drop_last=True)


def training_batches(data):
    sampler, loader = share(data, 0)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)  # a new order
        yield from loader
        epoch += 1


def summed(*numbers):
    """Numbers summed over all processes."""
    total = torch.tensor(numbers, dtype=torch.float64)
    if WORLD > 1:
        dist.all_reduce(total)
    return total.tolist()


def main():
    torch.manual_seed(0)
    model = Classifier()
    trained = DistributedDataParallel(model, gradient_as_bucket_view=True) if WORLD > 1 else model
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.003)
    loss_sum = 0.0
    for step, (brackets, lengths, labels) in zip(range(1, STEPS + 1), training_batches(strings(8192, 0)), strict=False):
        loss = nn.functional.cross_entropy(trained(brackets, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        if step % 100 == 0:
            (mean,) = summed(loss_sum / 100 / WORLD)
            loss_sum = 0.0
            if RANK == 0:
                print(f"step {step}: loss {mean:.3f}")
    right = seen = balanced = 0
    with torch.no_grad():
        for brackets, lengths, labels in share(strings(2048, 1), 0)[1]:
            right += int((model(brackets, lengths).argmax(dim=1) == labels).sum())
            seen, balanced = seen + len(labels), balanced + int(labels.sum())
    right, seen, balanced = summed(right, seen, balanced)
    if RANK == 0:
        print(f"{100 * right / seen:.1f}% of {seen:.0f} new strings, {100 * balanced / seen:.1f}% balanced")


if __name__ == "__main__":
    if WORLD > 1:
        dist.init_process_group("gloo")
    main()
    if WORLD > 1:
        dist.barrier()  # a process that ends while another still talks to it may be aborted
        dist.destroy_process_group()
