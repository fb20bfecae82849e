"""fusedrnn.torch on several processes: what they train equals what one process trains on the whole batch."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agreement import assert_arrays_close

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("PyTorch without torch.distributed", allow_module_level=True)
from torch import nn  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402

WORLD, STEPS, ROWS, T, I, H = 2, 4, 3, 6, 3, 4
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}  # whatever the name of the machine resolves to
EXAMPLE = Path(__file__).parent.parent / "examples" / "ddp.py"


class Model(nn.Module):
    """Layers of two families, a cell in a loop, and parameters that may take no part."""

    def __init__(self, unused: bool = False) -> None:
        super().__init__()
        self.lstm = frt.LSTM(I, H, num_layers=2, bidirectional=True)
        self.gru = frt.GRU(2 * H, H)
        self.cell = frt.GRUCell(H, H)
        self.linear = nn.Linear(H, 1)
        self.unused = frt.RNN(I, H) if unused else None

    def forward(self, x: Any, lengths: Any) -> Any:
        y, _ = self.lstm(x, lengths=lengths)
        z, h = self.gru(y)
        return self.linear(self.cell(z[-1], self.cell(z[0], h[0])))


CALLS = 4  # of modules of ours in a forward


def make_model(unused: bool = False) -> Any:
    torch.manual_seed(0)
    return Model(unused).double()


def batch(step: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(T, WORLD * ROWS, I, generator=generator, dtype=torch.float64)
    return x, torch.randint(1, T + 1, (WORLD * ROWS,), generator=generator)


def share(rank: int, step: int) -> tuple[Any, Any]:
    x, lengths = batch(step)
    return x[:, rank * ROWS : (rank + 1) * ROWS], lengths[rank * ROWS : (rank + 1) * ROWS]


def train(model: Any, batches: Any, accumulate: int = 1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        last = step % accumulate == accumulate - 1
        hold = contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()
        with hold:
            model(*batches(step)).square().mean().backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()


def trained_alone(unused: bool = False, accumulate: int = 1) -> dict[str, Any]:
    model = make_model(unused)
    frt.reset_routes()
    train(model, batch, accumulate)
    assert frt.routes() == (STEPS * CALLS, 0, {})
    return {n: p.detach().numpy() for n, p in model.named_parameters()}


# What a process does: it returns the whole parameters.


def by_ddp(rank: int, accumulate: int = 1, **options: Any) -> dict[str, Any]:
    model = make_model(bool(options.get("find_unused_parameters")))
    ddp = nn.parallel.DistributedDataParallel(model, **options)
    frt.reset_routes()
    train(ddp, lambda step: share(rank, step), accumulate)
    assert frt.routes() == (STEPS * CALLS, 0, {}), frt.routes()
    return {n: p.detach() for n, p in model.named_parameters()}


def by_fsdp2(rank: int, inner: bool) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = make_model()
    mesh = init_device_mesh("cpu", (WORLD,))
    for module in (model.lstm, model.gru) if inner else ():
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    frt.reset_routes()
    train(model, lambda step: share(rank, step))
    assert frt.routes() == (STEPS * CALLS, 0, {}), frt.routes()
    return {n: p.full_tensor().detach() for n, p in model.named_parameters()}


def by_fsdp1(rank: int, **options: Any) -> dict[str, Any]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(make_model(), device_id=torch.device("cpu"), **options)
    frt.reset_routes()
    train(model, lambda step: share(rank, step))
    assert frt.routes() == (STEPS * CALLS, 0, {}), frt.routes()
    with FullyShardedDataParallel.summon_full_params(model):
        return {n.replace("_fsdp_wrapped_module.", ""): p.detach().clone() for n, p in model.named_parameters()}


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddp": (by_ddp, {}),
    "ddp_views": (by_ddp, {"gradient_as_bucket_view": True}),
    "ddp_static": (by_ddp, {"static_graph": True}),
    "ddp_unused": (by_ddp, {"find_unused_parameters": True}),
    "ddp_accumulated": (by_ddp, {"accumulate": 2}),
    "ddp_accumulated_views": (by_ddp, {"accumulate": 2, "gradient_as_bucket_view": True}),
    "fsdp2": (by_fsdp2, {"inner": False}),
    "fsdp2_inner": (by_fsdp2, {"inner": True}),
    "fsdp1": (by_fsdp1, {"use_orig_params": True}),
}


def process(rank: int, folder: str) -> None:
    """All ways, one after the other, on one process of `WORLD`; each writes what it trained, or its error."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=WORLD)
    for name, (way, options) in WAYS.items():
        try:
            found: Any = {n: p.numpy() for n, p in way(rank, **options).items()}
        except Exception as e:  # the test of this way tells it
            found = {"error": np.array(f"{type(e).__name__}: {e}")}
        np.savez(f"{folder}/{name}_{rank}.npz", **found)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes trained in all ways."""
    folder = tmp_path_factory.mktemp("trained")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = [sys.executable, "-c", "import sys, test_torch_distributed as t; t.process(int(sys.argv[1]), sys.argv[2])"]
    running = [
        subprocess.Popen(
            [*run, str(rank), str(folder)], env=os.environ | LOOPBACK | {"PYTHONPATH": path}, stderr=subprocess.PIPE
        )
        for rank in range(WORLD)
    ]
    try:
        errors = [p.communicate(timeout=600)[1].decode() for p in running]
    finally:
        for p in running:
            p.kill()
    assert [p.returncode for p in running] == [0] * WORLD, "\n".join(errors)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_processes_train_what_one_process_trains(trained: Path, way: str) -> None:
    options = WAYS[way][1]
    want = trained_alone(bool(options.get("find_unused_parameters")), options.get("accumulate", 1))
    # Sums over rows and steps in another order, in each step of training; momentum magnifies by less than 4.
    terms = STEPS * 4 * T * (2 * (2 * H + I + 20) + 2 * WORLD * ROWS * T)
    for rank in range(WORLD):
        with np.load(trained / f"{way}_{rank}.npz") as found:
            got = dict(found)
        assert "error" not in got, str(got["error"])
        assert_arrays_close(got, want, "float64", terms, f"{way}, process {rank}:")


@pytest.mark.parametrize("processes", [1, 2])
def test_example(processes: int) -> None:
    command = [sys.executable]
    if processes > 1:
        rendezvous = ["--standalone", "--nproc-per-node", str(processes)]
        command += ["-m", "torch.distributed.run", *rendezvous]
    env = os.environ | LOOPBACK | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, str(EXAMPLE), "200"], capture_output=True, text=True, env=env, timeout=600)
    assert ran.returncode == 0, ran.stderr
    found = re.fullmatch(
        r"step 100: loss (\d\.\d+)\nstep 200: loss (\d\.\d+)\n(\d+\.\d)% of 2048 new strings, (\d+\.\d)% balanced\n",
        ran.stdout,
    )
    assert found, ran.stdout
    first, last, right, balanced = map(float, found.groups())
    assert last < first / 2
    assert right > balanced + 20
