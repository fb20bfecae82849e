"""Stacks of layers against PyTorch and ONNX Runtime, and against the sum of single layers: `python bench --layers`.
Streams at a pace, such as that of an audio callback: `python bench --layers --paced 100000`."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import costs
from process import Missing, Worker, in_turns, peak_memory
from suite import GATES

HERE = Path(__file__).parent
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class LayerCase:
    """Modes: infer; train (new parameters, forward, backward); stream (one step)."""

    op: str
    mode: str
    T: int
    B: int
    I: int
    H: int
    layers: int
    directions: int
    single: bool = False  # by the functions of one layer, one after another

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "layers"} | asdict(self)

    def __str__(self) -> str:
        return f"{self.op} {self.mode} ({self.T},{self.B},{self.I},{self.H}) x {self.layers} x {self.directions}"

    @property
    def weight_bytes(self) -> int:
        """Of all layers and directions."""
        inputs = self.I + (self.layers - 1) * self.directions * self.H
        return 4 * GATES[self.op] * self.H * self.directions * (inputs + self.layers * self.H)


STACKS = [  # T, B, I, H, layers, directions
    (100, 1, 256, 256, 4, 1),
    (100, 16, 256, 256, 2, 2),
    (100, 1, 64, 64, 4, 1),
    (100, 1, 128, 128, 2, 1),
    (100, 64, 128, 128, 2, 1),
    (10, 1, 32, 32, 2, 1),
]
STREAM = LayerCase("gru", "stream", 1, 1, 256, 256, 2, 1)


def inputs(case: LayerCase) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.T, case.B, case.I)).astype("float32")
    return x, rng.standard_normal((case.T, case.B, case.directions * case.H)).astype("float32")


def of_fusedrnn(lib: Any, case: LayerCase) -> Callable[[], Any]:
    x, dy = inputs(case)
    layer = getattr(lib, case.op.upper())(case.I, case.H, case.layers, bidirectional=case.directions == 2, rng=0)
    if case.single:
        return _singles(lib, case, layer.state_dict(), x, dy)
    if case.mode == "infer":
        return lambda: layer(x)
    if case.mode == "stream":
        stream, out = layer.stream(case.B), np.empty((case.B, case.H), "float32")
        return lambda: stream.step(x[0], out)

    def train() -> Any:
        for a in layer.parameters.values():
            a.flat[0] += 1e-3  # new parameters: all are packed anew
        _, tape = layer.forward(x)
        return layer.backward(tape, dy)

    return train


def _singles(lib: Any, case: LayerCase, parameters: dict[str, Any], x: Any, dy: Any) -> Callable[[], Any]:
    """All layers and directions, on inputs made beforehand; each backward is given a contiguous dy of its own."""
    infer, forward, backward = (getattr(lib, case.op + suffix) for suffix in ("", "_forward", "_backward"))
    kind = getattr(lib, f"{case.op.upper()}Weights")
    above = np.random.default_rng(1).standard_normal((case.T, case.B, case.directions * case.H)).astype("float32")
    part = np.ascontiguousarray(dy[..., : case.H])
    runs = [
        (
            above if layer else x,
            [parameters[f"{name}_l{layer}{'_reverse' if d else ''}"] for name in NAMES],
            d > 0,
        )
        for layer in range(case.layers)
        for d in range(case.directions)
    ]
    packed = [kind(*arrays) for _, arrays, _ in runs]
    if case.mode == "infer":
        return lambda: [infer(a, w, reverse=r) for (a, _, r), w in zip(runs, packed, strict=True)]

    def train() -> Any:
        reserves = [forward(a, kind(*arrays), reverse=reverse)[1] for a, arrays, reverse in runs]
        return [backward(reserve, part) for reserve in reversed(reserves)]

    return train


def of_torch(torch: Any, case: LayerCase) -> Callable[[], Any] | None:
    if case.single:
        return None
    layer = getattr(torch.nn, case.op.upper())(case.I, case.H, case.layers, bidirectional=case.directions == 2)
    x, dy = map(torch.from_numpy, inputs(case))
    if case.mode != "train":
        zeros = torch.zeros(case.layers * case.directions, case.B, case.H)
        state = (zeros, zeros.clone()) if case.op == "lstm" else zeros

        def infer() -> Any:
            with torch.inference_mode():
                return layer(x, state) if case.mode == "stream" else layer(x)

        return infer
    x.requires_grad_()

    def train() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x)[0].backward(dy)

    return train


def of_onnxruntime(case: LayerCase, threads: int) -> Callable[[], Any] | None:
    if case.single or case.mode == "train":
        return None
    from onnx_model import ORDER, STATES, make_stack_session

    rng, g = np.random.default_rng(2), len(ORDER[case.op]) * case.H

    def uniform(*size: int) -> Any:
        return (rng.uniform(-1, 1, size) / np.sqrt(case.H)).astype("float32")

    weights = [
        [
            [uniform(g, case.directions * case.H if layer else case.I), uniform(g, case.H), uniform(g), uniform(g)]
            for _ in range(case.directions)
        ]
        for layer in range(case.layers)
    ]
    extra = {"linear_before_reset": 1} if case.op == "gru" else {}
    stream = case.mode == "stream"
    shape = (case.T, case.B, case.I, case.H)
    session = make_stack_session(case.op, weights, shape, with_states=stream, threads=threads, **extra)
    feeds = {"X": inputs(case)[0]}
    if stream:
        zeros = np.zeros((case.directions, case.B, case.H), "float32")
        feeds |= {f"{state}_{layer}": zeros for layer in range(case.layers) for state in STATES[case.op]}
    return lambda: session.run(None, feeds)


def paced(run: Callable[[], Any], steps: int, pace: float, offset: float) -> dict[str, float]:
    """Seconds of a step that begins every `pace` seconds, and the share of a CPU that the process took."""
    for _ in range(100):
        run()
    times, next_start = np.empty(steps), time.perf_counter() + offset
    cpu, wall = time.process_time(), time.perf_counter()
    for i in range(steps):
        next_start += pace
        time.sleep(max(0.0, next_start - time.perf_counter()))
        start = time.perf_counter()
        run()
        times[i] = time.perf_counter() - start
    used = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return {
        "median": float(np.median(times)),
        "p99.9": float(np.quantile(times, 0.999)),
        "max": float(times.max()),
        "cpu": used,
    }


def measure(cases: list[LayerCase], threads: int, rounds: int, console: Console) -> list[dict[str, Any]]:
    workers: dict[str, Worker] = {}
    for name in ("fusedrnn", "torch", "onnxruntime"):
        try:
            workers[name] = Worker(name, threads)
        except Missing as missing:
            console.print(f"[yellow]{name} takes no part: {missing}")
    results = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=str(case))
            turns = {name: (worker, case) for name, worker in workers.items()}
            single = Worker("fusedrnn", threads)
            turns["single layers"] = (single, replace(case, single=True))
            able = [name for name, (worker, c) in turns.items() if worker.ask("prepare", case=c.as_dict())]
            for worker, _ in turns.values():
                worker.pause()
            seconds = in_turns({name: turns[name][0] for name in able}, rounds, "time", budget=0.1)
            single.close()
            results.append({"case": asdict(case), "ms": {n: 1e3 * statistics.median(s) for n, s in seconds.items()}})
            progress.advance(task)
    for worker in workers.values():
        worker.close()
    return results


def ratio(result: dict[str, Any]) -> float:
    peers = [v for k, v in result["ms"].items() if k in ("torch", "onnxruntime")]
    return min(peers) / result["ms"]["fusedrnn"] if peers else float("nan")


def print_tables(results: list[dict[str, Any]], console: Console) -> None:
    table = Table(
        title="float32, ms a call: (T,B,I,H) x layers x directions",
        caption="single: the sum of single layers; x: the fastest peer's time over ours, of the stack and of one layer",
    )
    systems = ("fusedrnn", "single layers", "torch", "onnxruntime")
    for heading in ("case", "fusedrnn", "single", "torch", "onnx", "/ single", "x peer", "x, 1 layer"):
        left = heading == "case"
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    ones = {(r["case"]["op"], r["case"]["mode"], *sizes(r)[:4]): r for r in results if sizes(r)[4:] == (1, 1)}
    for r in results:
        if sizes(r)[4:] == (1, 1):
            continue
        ms, one = r["ms"], ones.get((r["case"]["op"], r["case"]["mode"], *sizes(r)[:4]))
        row = [f"{ms[name]:.4g}" if name in ms else "-" for name in systems]
        over = f"{ms['fusedrnn'] / ms['single layers']:.3f}"
        alone = f"{ratio(one):.2f}" if one else "-"
        table.add_row(str(LayerCase(**r["case"])), *row, over, f"{ratio(r):.2f}", alone)
    console.print(table)


def stream_at(threads: int, rounds: int, console: Console) -> dict[str, Any]:
    """Step after step; and the time that reading the weights takes, each thread its part, again and again."""
    (result,) = measure([STREAM], threads, rounds, console)
    worker = Worker("fusedrnn", threads)
    rate = worker.ask("read", f64=False, bytes=STREAM.weight_bytes // threads)
    worker.close()
    floor, ms = STREAM.weight_bytes / rate / 1e6, result["ms"]
    times = ", ".join(f"{name} {1e3 * v:.1f} us" for name, v in ms.items())
    console.print(
        f"{STREAM}, step after step, {threads} threads: {times}; "
        f"reading {STREAM.weight_bytes} bytes of weights {1e3 * floor:.1f} us: {ms['fusedrnn'] / floor:.2f} times that"
    )
    return {"ms": ms, "floor": floor}


def sizes(r: dict[str, Any]) -> tuple[int, ...]:
    return tuple(r["case"][key] for key in ("T", "B", "I", "H", "layers", "directions"))


def in_process_of_its_own(request: list[str], threads: int, cpu: int | None = None) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "layers.py"), *request, str(threads)]
    pin = None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=pin)


def answer_of(process: subprocess.Popen[str]) -> Any:
    text, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a measurement ended with status {process.returncode}")
    return json.loads(text.splitlines()[-1])


def print_memory(cases: list[LayerCase], threads: int, console: Console) -> list[dict[str, Any]]:
    """Of a training step, each in a process of its own."""
    table, results = Table(title="Peak memory of training, MB beyond that of the process before"), []
    for heading in ("case", "fusedrnn", "torch"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for case in cases:
        got = {
            system: answer_of(in_process_of_its_own(["memory", system, json.dumps(asdict(case))], threads))
            for system in ("fusedrnn", "torch")
        }
        results.append({"case": asdict(case), "bytes": got})
        table.add_row(str(case), *(f"{v / 1e6:.1f}" for v in got.values()))
    console.print(table)
    return results


def print_paced(steps: int, pace: float, console: Console) -> dict[str, Any]:
    """On one thread each: fusedrnn on one CPU; the peers on another, in turn."""
    cpus = sorted(os.sched_getaffinity(0))
    places = {"fusedrnn": (cpus[0], 0.0), "torch": (cpus[-1], 0.0), "onnxruntime": (cpus[-1], pace / 2)}
    started = {
        system: in_process_of_its_own(["paced", system, json.dumps([steps, pace, offset])], 1, cpu)
        for system, (cpu, offset) in places.items()
    }
    results = {system: answer_of(process) for system, process in started.items()}
    table = Table(title=f"{STREAM}, every {1e3 * pace:.0f} ms, {steps} steps, one thread: us a step")
    for heading in ("", "median", "99.9%", "most", "of a CPU"):
        table.add_column(heading, justify="right" if heading else "left")
    for system, r in results.items():
        times = (f"{1e6 * r[key]:.1f}" for key in ("median", "p99.9", "max"))
        table.add_row(system, *times, f"{100 * r['cpu']:.1f}%")
    console.print(table)
    return results


def report(ops: list[str], threads: int, rounds: int, steps: int, out: Path, console: Console) -> None:
    stacks = [LayerCase(op, mode, *size) for op in ops for mode in ("infer", "train") for size in STACKS]
    ones = [replace(case, layers=1, directions=1) for case in stacks]
    results: dict[str, Any] = {"threads": threads, "layers": measure([*stacks, *ones], threads, rounds, console)}
    print_tables(results["layers"], console)
    results["stream"] = {n: stream_at(n, rounds, console) for n in sorted({1, threads})}
    results["memory"] = print_memory([c for c in stacks if c.mode == "train" and c.T == 100], threads, console)
    results["costs"] = costs.report([op.upper() for op in ops], rounds, console)
    if steps:
        results["paced"] = print_paced(steps, 0.01, console)
    out.mkdir(parents=True, exist_ok=True)
    (out / "layers.json").write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written: {out / 'layers'}.json")


def prepared_alone(system: str, case: LayerCase, threads: int) -> Callable[[], Any]:
    from systems import SYSTEMS

    run: Callable[[], Any] = SYSTEMS[system](threads).prepare_layers(case)
    return run


def main() -> None:
    """One measurement in a process of its own."""
    what, system, text, threads = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
    if what == "memory":
        print(json.dumps(peak_memory(prepared_alone(system, LayerCase(**text), threads))))
    elif what == "paced":
        print(json.dumps(paced(prepared_alone(system, STREAM, threads), *text)))


if __name__ == "__main__":
    main()
