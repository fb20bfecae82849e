"""How far the kernels are from the float64 reference, over all cells and sizes of the tests: the largest error of an
output, and the largest error of a gradient relative to the largest gradient of its problem.

    python bench/accuracy.py

Then float32 errors beside those of PyTorch and of NumPy (the reference's equations in float32, by NumPy's products),
on random weights and on trained ones: `pip install torch==2.13.0`, and `pip install --no-deps g2p_en==2.1.0
silero_vad==6.2.3` (what is missing is left out).
The block length of sums is kBlock in csrc/sizes.hpp: docs/accuracy.md has the figures of builds with others.

    python bench/accuracy.py --peers
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import _common  # noqa: F401
import fusedrnn
from agreement import named
from cases import CELLS, DTYPES, SHAPES, make_problem
from suite import GATES


def against_the_reference() -> None:
    for dtype in DTYPES:
        outputs = gradients = 0.0
        for cell in CELLS:
            for shape in SHAPES:
                problem = make_problem(cell, shape, dtype, np.random.default_rng(0))
                (out, grads), (want_out, want_grads) = problem.run(), problem.as_float64().run(fusedrnn.reference)
                for (_, a), (_, b) in zip(named(out), named(want_out), strict=True):
                    outputs = max(outputs, float(np.abs(a - b).max(initial=0)))
                largest = max(1e-30, *(float(np.abs(b).max(initial=0)) for _, b in named(want_grads)))
                for (_, a), (_, b) in zip(named(grads), named(want_grads), strict=True):
                    gradients = max(gradients, float(np.abs(a - b).max(initial=0)) / largest)
        print(f"{dtype}: outputs within {outputs:.1e}, gradients within {gradients:.1e} of the largest")


@dataclass(frozen=True)
class Model:
    """One layer with float32 weights (as in PyTorch), and its input (T, B, I)."""

    name: str
    op: str
    weights: tuple[Any, ...]
    x: Any

    @property
    def dy(self) -> Any:
        T, B, _ = self.x.shape
        return np.random.default_rng(2).standard_normal((T, B, self.weights[1].shape[1])).astype("float32")


def random_models() -> Iterator[Model]:
    for op, gates in GATES.items():
        for T, B, I, H in ((50, 16, 64, 64), (50, 16, 256, 256), (50, 1, 256, 256), (20, 16, 1024, 1024)):
            rng = np.random.default_rng(1)
            k = 1 / np.sqrt(H)
            shapes = ((gates * H, I), (gates * H, H), (gates * H,), (gates * H,))
            weights = tuple(rng.uniform(-k, k, shape).astype("float32") for shape in shapes)
            yield Model(f"random {(T, B, I, H)}", op, weights, rng.standard_normal((T, B, I)).astype("float32"))


def folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def trained_models() -> Iterator[Model]:
    if folder := folder_of("g2p_en"):  # letters to phonemes: words of eight random letters
        data = np.load(folder / "checkpoint20.npz")
        for part in ("enc", "dec"):
            names = [f"{part}_{name}" for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
            weights = tuple(np.ascontiguousarray(data[name], "float32") for name in names)
            embedding = data[f"{part}_emb"].astype("float32")
            for B in (1, 64):
                letters = np.random.default_rng(1).integers(3, len(embedding), (8, B))
                yield Model(f"g2p_en {part}oder, T=8, B={B}", "gru", weights, embedding[letters])
    folder = folder_of("torch") and folder_of("silero_vad")
    if folder:  # speech or not: inputs as its ReLU gives them, of random size
        import torch

        state = torch.jit.load(str(folder / "data" / "silero_vad.jit")).state_dict()
        names = [f"_model.decoder.rnn.{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        weights = tuple(state[name].numpy() for name in names)
        for B in (1, 64):
            x = np.abs(np.random.default_rng(1).standard_normal((100, B, 128))).astype("float32")
            yield Model(f"silero_vad, T=100, B={B}", "lstm", weights, x)


Results = dict[str, Any]  # y, dx and the gradients of weights


def by(module: Any, model: Model, dtype: str) -> Results:
    """By functions of fusedrnn, or of its reference."""
    w = getattr(fusedrnn, f"{model.op.upper()}Weights")(*(a.astype(dtype) for a in model.weights))
    out, reserve = getattr(module, f"{model.op}_forward")(model.x.astype(dtype), w)
    g = getattr(module, f"{model.op}_backward")(reserve, model.dy.astype(dtype))
    return {"y": out.y, "dx": g.dx, "dweight_ih": g.dweight_ih, "dweight_hh": g.dweight_hh}


def by_torch(model: Model) -> Results:
    import torch

    layer = getattr(torch.nn, model.op.upper())(model.x.shape[2], model.weights[1].shape[1])
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), model.weights, strict=True):
            parameter.copy_(torch.from_numpy(value))
    x = torch.from_numpy(model.x).requires_grad_()
    y = layer(x)[0]
    y.backward(torch.from_numpy(model.dy))
    grads = {f"d{name[:-3]}": p.grad for name, p in layer.named_parameters() if name.startswith("weight")}
    return {name: a.detach().numpy() for name, a in {"y": y, "dx": x.grad, **grads}.items()}


def error(got: Any, want: Any) -> tuple[float, float]:
    """The largest, as a share of the largest entry; and by norm."""
    difference = got - want
    return float(np.abs(difference).max() / np.abs(want).max()), float(
        np.linalg.norm(difference) / np.linalg.norm(want)
    )


def beside_peers() -> None:
    systems: dict[str, Callable[[Model], Results]] = {
        "fusedrnn": lambda m: by(fusedrnn, m, "float32"),
        "NumPy": lambda m: by(fusedrnn.reference, m, "float32"),
    }
    if folder_of("torch"):
        systems["PyTorch"] = by_torch
    table = Table(title=f"float32 errors, {fusedrnn.isa()}: largest over the largest entry / by norm, in units of 1e-7")
    for column in ("model", "of", *systems):
        table.add_column(column)
    ratios: dict[str, list[float]] = {name: [] for name in systems}
    for model in (*trained_models(), *random_models()):
        want = by(fusedrnn.reference, model, "float64")
        results = {name: run(model) for name, run in systems.items()}
        for key in want:
            errors = {name: error(result[key], want[key]) for name, result in results.items()}
            cells = [f"{1e7 * most:.2f} / {1e7 * norm:.3f}" for most, norm in errors.values()]
            table.add_row(f"{model.op} {model.name}", key, *cells)
            for name, (_, norm) in errors.items():
                ratios[name].append(norm / errors["fusedrnn"][1])
    means = ", ".join(f"{name} {np.exp(np.mean(np.log(r))):.2f}" for name, r in ratios.items())
    table.caption = f"error by norm over that of fusedrnn, geometric mean: {means}"
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true")
    if parser.parse_args().peers:
        beside_peers()
    else:
        against_the_reference()


if __name__ == "__main__":
    main()
