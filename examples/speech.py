"""Who is speaking? Three bidirectional LSTM layers of PyTorch read an utterance, and a linear layer classifies the mean
of what they put out. The same model, changed by one call of fusedrnn.torch.convert, learns beside it, from the same
weights, batches and masks of dropout. Their losses are compared, and the epochs timed in turns. Nine men say the
vowels a and e; 12 LPC cepstrum coefficients a frame, 7 to 29 frames (Kudo, Toyama & Shimbo, Pattern Recognition Letters
20, 1999; the data come with the package aeon).

pip install '.[bench,torch]'
pip download --no-deps aeon==1.6.0 -d data
python examples/speech.py data                            # five seeds: some minutes
python examples/speech.py data --seeds 1 --epochs 5 --plot speech.png
torchrun --nproc-per-node 2 examples/speech.py data       # DistributedDataParallel, half of each batch to each process
"""

import argparse
import copy
import os
import time

import numpy as np
import torch
import torch.distributed as dist
from rich.progress import Progress
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import fusedrnn.torch as frt
from vowels import FEATURES, SPEAKERS, by_gaussians, plot, prepared

BATCH, RATE, CLIP, DROPPED = 30, 1e-3, 1.0, 0.5
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torchrun sets both


class Classifier(nn.Module):
    def __init__(self, units, layers):
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, units, layers, dropout=DROPPED, bidirectional=True)
        self.linear = nn.Linear(2 * units, SPEAKERS)

    def forward(self, packed):
        y, lengths = pad_packed_sequence(self.lstm(packed)[0])  # (T, B, 2 * units), zero past the ends
        return self.linear(y.sum(dim=0) / lengths.unsqueeze(1))


def batch(data, which):
    utterances, speakers = zip(*(data[i] for i in which), strict=True)
    return pack_sequence(utterances, enforce_sorted=False), torch.tensor(speakers)


def epoch(model, optimizer, data, seed):
    """The mean loss. Equal seeds make equal batches and equal masks of dropout, other masks in each process."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(WORLD * seed + RANK)
    model.train()
    losses = []
    for some in order.split(BATCH):
        packed, speakers = batch(data, some[RANK::WORLD])
        loss = nn.functional.cross_entropy(model(packed), speakers)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean()


def accuracy(model, data):
    packed, speakers = batch(data, range(len(data)))
    with torch.no_grad():
        return 100 * (model.eval()(packed).argmax(dim=1) == speakers).double().mean().item()


def nudged(model):
    """The same with weights that differ by about one rounding: how far apart this alone drives two runs."""
    with torch.no_grad():
        for p in model.parameters():
            p *= 1 + torch.finfo(p.dtype).eps
    return model


def learned(train, test, seed, args, tick):
    """Losses and seconds of all epochs (2, epochs) and final accuracies (2,), of torch.nn and of fusedrnn."""
    torch.manual_seed(seed)
    model = Classifier(args.units, args.layers)
    models = model, (nudged if args.nudge else frt.convert)(copy.deepcopy(model))
    trained = [DistributedDataParallel(m) if WORLD > 1 else m for m in models]
    optimizers = [torch.optim.Adam(m.parameters(), RATE) for m in trained]
    losses, seconds = np.zeros((2, 2, args.epochs))
    for i in range(args.epochs):
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            loss = epoch(trained[which], optimizers[which], train, args.epochs * seed + i)
            seconds[which, i] = time.perf_counter() - start
            if WORLD > 1:
                dist.all_reduce(loss)
            losses[which, i] = loss / WORLD
        tick()
    return losses, seconds, [accuracy(m, test) for m in models]


def main():
    parser = argparse.ArgumentParser(description="Who is speaking, by LSTM layers of PyTorch and of fusedrnn.")
    parser.add_argument("folder", help="with the wheel of aeon 1.6.0")
    for name, value in {"seeds": 5, "epochs": 12, "units": 256, "layers": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--validate", action="store_true", help="learn from two thirds, test on the third")
    parser.add_argument("--nudge", action="store_true", help="torch.nn from nudged weights, in place of fusedrnn")
    parser.add_argument("--plot", metavar="FILE", help="the losses")
    args = parser.parse_args()
    names = "torch.nn", "torch.nn, nudged" if args.nudge else "fusedrnn"
    torch.set_num_threads(args.threads)
    frt.set_fallback("error")  # no call that PyTorch's operators would take instead
    train, test = prepared(args.folder, args.validate)
    if RANK == 0:
        print(f"a Gaussian for each speaker's frames: {by_gaussians(train, test):.2f}% right")
    with Progress(transient=True, disable=RANK > 0) as progress:
        task = progress.add_task("learning", total=args.seeds * args.epochs)
        runs = [learned(train, test, seed, args, lambda: progress.advance(task)) for seed in range(args.seeds)]
    losses, seconds, right = map(np.array, zip(*runs, strict=True))  # (seeds, 2, epochs) twice, (seeds, 2)
    if RANK == 0:
        for i, name in enumerate(names):
            print(f"{name}: {right[:, i].mean():.2f} ± {right[:, i].std():.2f}% right, ", end="")
            print(f"loss {losses[:, i, 0].mean():.4f} to {losses[:, i, -1].mean():.4f}, ", end="")
            print(f"{np.median(seconds[:, i]):.3f} s an epoch")
        print(f"losses differ by at most {np.abs(losses[:, 0] - losses[:, 1]).max():.1e}; ", end="")
        print(f"fusedrnn's kernels took {frt.routes().native} calls")
        if args.plot:
            plot(args.plot, losses, names)


if __name__ == "__main__":
    if WORLD > 1:
        dist.init_process_group("gloo")
    main()
    if WORLD > 1:
        dist.barrier()  # a process that ends while another still talks to it may be aborted
        dist.destroy_process_group()
