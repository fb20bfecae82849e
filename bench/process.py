"""Systems in processes of their own: thread pools disturb each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Holds PyTorch, oneDNN and MKL to AVX2. ONNX Runtime knows no such setting.
AVX2_PEERS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


class Missing(Exception):
    """A system is not installed."""


class Worker:
    """One system in a process of its own."""

    def __init__(self, system: str, threads: int, isa: str | None = None, path: str | None = None) -> None:
        # OpenBLAS, which only NumPy's reference uses here, would otherwise spin for 100 ms after each product.
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        if isa:
            env |= {"FUSEDRNN_ISA": isa}
        if isa == "avx2":
            env |= AVX2_PEERS
        if path:
            env |= {"PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), system, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        hello = self._read()
        if "missing" in hello:
            raise Missing(hello["missing"])
        self.versions: dict[str, str] = hello["versions"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def pause(self) -> None:
        """Between its turns a worker is stopped: ONNX Runtime's and OpenMP's threads go on spinning after a call."""
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, do: str, **request: Any) -> Any:
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def in_turns(workers: dict[str, Worker], rounds: int, do: str, **request: Any) -> dict[str, list[Any]]:
    """The answers of each worker, one of each in a round; the others are stopped meanwhile."""
    answers: dict[str, list[Any]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            answers[name].append(worker.ask(do, **request))
            worker.pause()
    return answers


def peak_memory(run: Callable[[], Any]) -> float:
    """Bytes that the second call needs beyond those in use before the first."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))

    before = status("VmRSS")
    run()
    run()
    return status("VmHWM") - before
