"""The command line: what is installed, what is in a file, and how fast its recurrent layers are here.

    python -m fusedrnn info
    python -m fusedrnn inspect model.onnx
    python -m fusedrnn bench model.onnx --seq-len 100 --batch 1

Files are those of ONNX (.onnx), Keras (.keras, .h5) and PyTorch (.pt, .pth, .safetensors).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fusedrnn
from fusedrnn.layers.layer import Layer


def _layers(path: str) -> tuple[Any, dict[str, Any]]:
    """The system of a file; and its layers by name, or the reason why one cannot be one here."""
    from fusedrnn.convert.files import system_of

    system, found = system_of(path), {}
    for key, make in system.found_in(path).items():
        name = key or "(the whole file)"
        try:
            found[name] = make()
        except (TypeError, ValueError) as e:
            found[name] = e
    if not found:
        raise ValueError(f"path: expected a file with a recurrent layer, got none in {path!r}")
    return system, found


def inspect(path: str) -> int:
    _, found = _layers(path)
    for name, layer in found.items():
        if isinstance(layer, Exception):
            print(f"{name}: cannot run here: {layer}")
            continue
        print(f"{name}: {layer!r}")
        inner = getattr(layer, "layer", layer)
        for parameter, a in inner.state_dict().items():
            print(f"    {parameter} {a.shape} {a.dtype}")
        if layer.initial_state is not None:
            print("    initial_state: constants")
    runs = sum(not isinstance(layer, Exception) for layer in found.values())
    print(f"{runs} of {len(found)} recurrent layers can run here")
    return 0


def bench(path: str, seq_len: int, batch: int, rounds: int) -> int:
    """Both in turns; medians; the ratio is above 1 where fusedrnn is faster."""
    system, found = _layers(path)
    threads = fusedrnn.get_num_threads()
    print(f"T={seq_len}, B={batch}, {threads} threads, medians of {rounds} rounds")
    for name, layer in found.items():
        inner = getattr(layer, "layer", layer)
        if not isinstance(inner, Layer):
            print(f"{name}: cannot run here: {layer}")
            continue
        try:
            theirs = system.run(inner, threads)
        except ValueError as e:
            print(f"{name}: {system.name} has no such layer by itself: {e}")
            continue
        steps = (batch, seq_len) if inner.batch_first else (seq_len, batch)
        x = np.random.default_rng(0).standard_normal((*steps, inner.input_size)).astype(inner.dtype)
        _compare(name, inner, theirs, x, system.name, rounds)
    return 0


def _compare(name: str, layer: Layer, theirs: Callable[[Any], Any], x: Any, system: str, rounds: int) -> None:
    def ours(x: Any) -> Any:
        return layer(x).y

    y, want = ours(x), theirs(x)
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for call, of_call in zip((ours, theirs), times, strict=True):
            begin = time.perf_counter()
            call(x)
            of_call.append(time.perf_counter() - begin)
    mine, other = map(statistics.median, times)
    print(
        f"{name}: fusedrnn {1e3 * mine:.3f} ms, {system} {1e3 * other:.3f} ms, ratio {other / mine:.2f}, "
        f"largest difference {np.abs(y - want).max(initial=0):.1e}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m fusedrnn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, instruction set, threads, CUDA")
    commands.add_parser("inspect", help="the recurrent layers of a file").add_argument("file")
    timed = commands.add_parser("bench", help="the layers of a file, here and in their own runtime")
    timed.add_argument("file")
    for name, default in (("seq-len", 100), ("batch", 1), ("rounds", 20)):
        timed.add_argument(f"--{name}", type=_positive, default=default, help=f"default: {default}")
    args = parser.parse_args(arguments)
    try:
        if args.command == "info":
            fusedrnn.show_config()
            return 0
        if args.command == "inspect":
            return inspect(args.file)
        return bench(args.file, args.seq_len, args.batch, args.rounds)
    except (ValueError, TypeError, ImportError, OSError) as e:
        print(f"{parser.prog}: {e}", file=sys.stderr)
        return 1


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
