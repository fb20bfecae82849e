"""The systems that are measured. Each makes, for a case, a function of no arguments that runs it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import _common  # noqa: F401
from onnx_model import make_session
from suite import GATES, Case

if TYPE_CHECKING:
    from layers import LayerCase

Run = Callable[[], Any]


class Inputs:
    """The same numbers for all systems."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(0)
        g, k = GATES[case.op] * case.H, 1 / np.sqrt(case.H)

        def uniform(*size: int) -> Any:
            return rng.uniform(-k, k, size).astype(case.dtype)

        self.weights = [uniform(g, case.I), uniform(g, case.H), uniform(g), uniform(g)]
        self.x = rng.standard_normal((case.T, case.B, case.I)).astype(case.dtype)
        self.dy = rng.standard_normal((case.T, case.B, case.H)).astype(case.dtype)


class FusedRNN:
    def __init__(self, threads: int) -> None:
        import fusedrnn

        self.lib = fusedrnn
        fusedrnn.set_num_threads(threads)
        self.versions = {"fusedrnn": fusedrnn.__version__, "isa": fusedrnn.isa(), "numpy": np.__version__}
        # Of the last case: (rows, units, workers) of forward and, in training, of backward.
        self.shares: Callable[[], list[tuple[int, int, int]]] = list

    def prepare(self, case: Case) -> Run | None:
        lib, n = self.lib, Inputs(case)
        kind = {"lstm": lib.LSTMWeights, "gru": lib.GRUWeights, "rnn": lib.RNNWeights}[case.op]
        infer, forward, backward, step = (getattr(lib, case.op + s) for s in ("", "_forward", "_backward", "_cell"))
        w = kind(*n.weights)
        passes = (False, True) if case.mode == "train" else (False,)
        self.shares = lambda: [w._loaded.schedule(case.T, case.B, 0, backward) for backward in passes]
        if case.mode == "infer":
            return lambda: infer(n.x, w)
        if case.mode == "step":
            states = [np.zeros((case.B, case.H), case.dtype) for _ in range(2 if case.op == "lstm" else 1)]
            out = tuple(np.empty_like(s) for s in states)
            x, target = n.x[0], out if case.op == "lstm" else out[0]
            return lambda: step(x, w, *states, out=target)

        def train() -> Any:
            out, reserve = forward(n.x, kind(*n.weights))
            return out, backward(reserve, n.dy)

        return train

    def prepare_layers(self, case: LayerCase) -> Run | None:
        from layers import of_fusedrnn

        return None if case.single and case.mode == "stream" else of_fusedrnn(self.lib, case)

    def verify(self, case: Case) -> None:
        """Against the float64 reference, within the tests' bounds."""
        from agreement import assert_agrees  # only here: the other systems' processes stay without fusedrnn
        from cases import CELLS, make_problem

        cell = next(c for c in CELLS if c.op == case.op)
        problem = make_problem(cell, case.shape, case.dtype, np.random.default_rng(1))
        try:
            assert_agrees(problem, problem.run())
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


def prepared(system: Any, case: Case) -> Run:
    """Of a system that can run the case."""
    run: Run | None = system.prepare(case)
    assert run is not None
    return run


class PyTorch:
    def __init__(self, threads: int) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        self.versions = {"torch": torch.__version__}

    def prepare(self, case: Case) -> Run | None:
        torch, n = self.torch, Inputs(case)
        nn = torch.nn
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[case.op]
        layer = kind(case.I, case.H, dtype=getattr(torch, case.dtype))
        x, dy = torch.from_numpy(n.x), torch.from_numpy(n.dy)

        def infer() -> Any:
            with torch.inference_mode():
                return layer(x)

        if case.mode == "infer":
            return infer
        if case.mode == "step":
            cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[case.op](case.I, case.H, dtype=x.dtype)
            state = torch.zeros(case.B, case.H, dtype=x.dtype)
            states = (state, state.clone()) if case.op == "lstm" else state

            def step() -> Any:
                with torch.inference_mode():
                    return cell(x[0], states)

            return step
        x.requires_grad_()

        def train() -> Any:
            layer.zero_grad()
            x.grad = None
            y, _ = layer(x)
            y.backward(dy)

        return train

    def prepare_layers(self, case: LayerCase) -> Run | None:
        from layers import of_torch

        return of_torch(self.torch, case)


class OnnxRuntime:
    def __init__(self, threads: int) -> None:
        import onnx  # noqa: F401  (which makes the models)
        import onnxruntime

        self.threads = threads
        self.versions = {"onnxruntime": onnxruntime.__version__}

    def prepare(self, case: Case) -> Run | None:
        if case.mode != "infer" or case.dtype != "float32":
            return None  # it has no training, and no float64
        n = Inputs(case)
        extra: dict[str, Any] = {"linear_before_reset": 1} if case.op == "gru" else {}
        session = make_session(case.op, n.weights, case.shape, with_states=False, threads=self.threads, **extra)
        return lambda: session.run(None, {"X": n.x})

    def prepare_layers(self, case: LayerCase) -> Run | None:
        from layers import of_onnxruntime

        return of_onnxruntime(case, self.threads)


def _modules(name: str) -> Any:
    def make(threads: int) -> Any:
        from modules import Modules

        return Modules(name)

    return make


SYSTEMS: dict[str, Any] = {"fusedrnn": FusedRNN, "torch": PyTorch, "onnxruntime": OnnxRuntime}
SYSTEMS |= {name: _modules(name) for name in ("torch.nn", "fusedrnn.torch")}
