"""Modules of PyTorch: whole training and evaluation steps by torch.nn and by fusedrnn.torch: `python bench --torch`."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from process import Worker, in_turns

SYSTEMS = ("torch.nn", "fusedrnn.torch")
CLASSES = 10  # of the labels


@dataclass(frozen=True)
class ModuleCase:
    """Modes: train (Linear, cross-entropy, backward, clipping, Adam); eval (Linear, no gradients); call and backward
    (the module alone, without and with gradients); frozen (a call, weights packed once); memory (bytes that a graph
    keeps)."""

    title: str
    module: str  # of torch.nn, or of fusedrnn.torch alone
    mode: str
    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    packed: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "modules"} | asdict(self)

    @property
    def is_cell(self) -> bool:
        return self.module.endswith("Cell")

    def __str__(self) -> str:
        return f"{self.title} ({self.T},{self.B},{self.I},{self.H})"


def _steps(title: str, *sizes: Any, **others: Any) -> list[ModuleCase]:
    return [ModuleCase(title, sizes[0], mode, *sizes[1:], **others) for mode in ("train", "eval")]


SIX = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
QUICK = [
    *_steps("3-layer LSTM", "LSTM", 160, 32, 40, 256, layers=3),
    *_steps("2-layer BiGRU", "GRU", 160, 32, 40, 256, layers=2, bidirectional=True),
    *_steps("2-layer LSTM, packed", "LSTM", 160, 32, 40, 256, layers=2, packed=True),
    *_steps("small GRU", "GRU", 60, 12, 96, 96),
    *_steps("RNN", "RNN", 60, 16, 128, 128),
    *_steps("layer-normalised LSTM", "LayerNormLSTM", 60, 16, 128, 128),
    *_steps("LSTMCell in a loop", "LSTMCell", 60, 16, 128, 128),
    *(ModuleCase(name, name, mode, 1, 1, 32, 32) for name in SIX for mode in ("call", "backward")),
    *(ModuleCase(f"frozen {name}", name, "frozen", 1, 1, 1024, 1024) for name in ("LSTM", "GRU")),
    ModuleCase("LSTM", "LSTM", "memory", 200, 16, 128, 128),
]
FULL = [
    *QUICK,
    *(case for B in (1, 4, 16, 64, 256) for case in _steps(f"LSTM, B={B}", "LSTM", 100, B, 128, 128)),
    *(case for B in (1, 4, 16, 64, 256) for case in _steps(f"GRU, B={B}", "GRU", 100, B, 128, 128)),
]


def layer_norm_by_torch(torch: Any, input_size: int, hidden_size: int) -> Any:
    """A layer-normalised LSTM as PyTorch's users write it, by PyTorch's operators, step by step."""

    class LayerNormLSTM(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.ih = torch.nn.Linear(input_size, 4 * hidden_size, bias=False)
            self.hh = torch.nn.Linear(hidden_size, 4 * hidden_size, bias=False)
            self.norm_ih, self.norm_hh = (torch.nn.GroupNorm(4, 4 * hidden_size) for _ in range(2))
            self.norm_c = torch.nn.LayerNorm(hidden_size)

        def forward(self, x: Any) -> Any:
            h = c = x.new_zeros(x.shape[1], hidden_size)
            u, ys = self.norm_ih(self.ih(x).flatten(0, 1)).unflatten(0, x.shape[:2]), []
            for t in range(len(x)):
                i, f, g, o = (u[t] + self.norm_hh(self.hh(h))).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * self.norm_c(c).tanh()
                ys.append(h)
            return torch.stack(ys), (h, c)

    return LayerNormLSTM()


class Modules:
    """A system: the modules of torch.nn, converted or not. Threads are what PyTorch takes by itself."""

    def __init__(self, name: str) -> None:
        import torch

        torch.manual_seed(0)
        self.torch, self.frt, self.versions = torch, None, {"torch": torch.__version__}
        if name == "fusedrnn.torch":
            import fusedrnn
            import fusedrnn.torch

            self.frt = fusedrnn.torch
            self.versions = {"fusedrnn": fusedrnn.__version__, "isa": fusedrnn.isa()}

    def recurrent(self, case: ModuleCase) -> Any:
        nn = self.torch.nn
        if not hasattr(nn, case.module):
            if self.frt is None:
                return layer_norm_by_torch(self.torch, case.I, case.H)
            return getattr(self.frt, case.module)(case.I, case.H)
        further = {} if case.is_cell else {"num_layers": case.layers, "bidirectional": case.bidirectional}
        module = getattr(nn, case.module)(case.I, case.H, **further)
        return module if self.frt is None else self.frt.convert(module)

    def input(self, case: ModuleCase) -> Any:
        torch, rng = self.torch, np.random.default_rng(0)
        x = torch.from_numpy(rng.standard_normal((case.T, case.B, case.I)).astype("float32"))
        if case.packed:
            lengths = rng.integers(case.T // 8, case.T + 1, case.B)
            return torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
        return x[0] if case.is_cell and case.mode in ("call", "backward") else x

    def prepare_module(self, case: ModuleCase) -> Callable[[], Any]:
        module, x = self.recurrent(case), self.input(case)
        if case.mode in ("train", "eval"):
            return self.steps(case, module, x)
        if case.mode == "memory":
            return lambda: self.kept_by_a_graph(module, x)
        if case.mode == "frozen" and self.frt is not None:
            self.frt.freeze(module)

        def call() -> None:
            with self.torch.no_grad():
                module(x)

        def backward() -> None:
            y = module(x)
            (y[0] if isinstance(y, tuple) else y).sum().backward()

        return backward if case.mode == "backward" else call

    def steps(self, case: ModuleCase, module: Any, x: Any) -> Callable[[], Any]:
        torch, nn = self.torch, self.torch.nn
        head = nn.Linear(case.H * (1 + case.bidirectional), CLASSES)
        rows = len(x.data) if case.packed else case.T * case.B
        labels = torch.arange(rows) % CLASSES
        parameters = [*module.parameters(), *head.parameters()]
        adam = torch.optim.Adam(parameters, 1e-3)

        def run() -> Any:
            if case.is_cell:
                state, ys = None, []
                for x_t in x:
                    state = module(x_t, state)
                    ys.append(state[0] if isinstance(state, tuple) else state)
                return head(torch.stack(ys).flatten(0, 1))
            y = module(x)[0]
            return head(y.data if case.packed else y.flatten(0, 1))

        def train() -> None:
            adam.zero_grad()
            nn.functional.cross_entropy(run(), labels).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()

        def evaluate() -> None:
            with torch.no_grad():
                run()

        return train if case.mode == "train" else evaluate

    def kept_by_a_graph(self, module: Any, x: Any) -> int:
        """The bytes of what is saved for backward, but for x and the parameters."""
        known = {t.untyped_storage().data_ptr() for t in (x, *module.parameters())}
        kept: dict[int, int] = {}

        def pack(t: Any) -> Any:
            storage = t.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return t

        with self.torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = module(x)
        del y
        return sum(kept.values())


def measure(cases: list[ModuleCase], rounds: int, console: Console) -> list[dict[str, Any]]:
    """In turns, each system in a process of its own."""
    workers = {name: Worker(name, 0) for name in SYSTEMS}
    results = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=str(case))
            for worker in workers.values():
                worker.ask("prepare", case=case.as_dict())
                worker.pause()
            taken = in_turns(workers, rounds, "call" if case.mode == "memory" else "time", budget=0.1)
            results.append({"case": asdict(case), "taken": taken, "ratio": _ratio(taken)})
            progress.advance(task)
    versions = {k: v for worker in workers.values() for k, v in worker.versions.items()}
    for worker in workers.values():
        worker.close()
    console.print(f"{versions}, medians of {rounds} rounds in turns, threads as PyTorch takes them")
    return results


def _ratio(taken: dict[str, list[float]]) -> float:
    theirs, ours = (statistics.median(taken[name]) for name in SYSTEMS)
    return theirs / ours


def print_tables(results: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="torch.nn over fusedrnn.torch")
    for heading in ("case (T,B,I,H)", "mode", *SYSTEMS, "ratio"):
        table.add_column(heading, justify="left" if heading in ("case (T,B,I,H)", "mode") else "right")
    for r in results:
        case = ModuleCase(**r["case"])
        values = [statistics.median(r["taken"][name]) for name in SYSTEMS]
        texts = [f"{v / 2**20:.2f} MiB" if case.mode == "memory" else _time(v) for v in values]
        table.add_row(str(case), case.mode, *texts, f"{r['ratio']:.2f}")
    console.print(table)


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.1f} us"


def report(suite: str, rounds: int, out: Path, machine: dict[str, Any], console: Console) -> None:
    results = measure(QUICK if suite == "quick" else FULL, rounds, console)
    print_tables(results, console)
    out.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "rounds": rounds, "results": results}
    (out / "modules.json").write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"{machine['cpu']}; written: {out / 'modules'}.json")
