"""What fusedrnn.torch needs of PyTorch, and what it does where a PyTorch has less: no C exchange, no private names."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fusedrnn.torch as frt  # noqa: E402
from fusedrnn.torch import private, required, tensors  # noqa: E402
from torch_agreement import assert_near  # noqa: E402

NAMES = {
    "are_transforms_active": [(torch._C, "_are_functorch_transforms_active")],
    "dispatch_modes": [(torch._C, "_len_torch_dispatch_stack")],
    "is_tracing": [(torch._C, "_is_tracing"), (torch.jit, "is_tracing")],
    "is_any_autocast_enabled": [(torch._C, "_is_any_autocast_enabled")],
}


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_fusedrnn_alone_imports_no_torch() -> None:
    assert printed("import fusedrnn, sys; print('torch' in sys.modules)") == "False"


def test_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None\ntry: import fusedrnn.torch\nexcept ImportError as e: print(e)"
    assert printed(code) == "fusedrnn.torch needs PyTorch: pip install 'fusedrnn[torch]'"


@pytest.mark.parametrize("version", ["1.13.1", "2.3.1+cpu"])
def test_an_old_torch_is_refused(version: str) -> None:
    with pytest.raises(ImportError, match=r"needs PyTorch 2\.4 or later, got " + version.replace("+", r"\+")):
        required.refuse(version)


@pytest.mark.parametrize("version", ["2.4.0", "2.13.0+cpu", "3.0.0a0+gitabc"])
def test_newer_versions_are_taken(version: str) -> None:
    required.refuse(version)


def test_private_names_stand_in_one_file() -> None:
    sources = list(Path(private.__file__).parent.glob("*.py"))
    assert len(sources) > 10
    for path in sources:
        found = re.findall(r"torch\._[a-zA-Z]\w*|_C\.\w+|\b_VF\b|_dynamo\w*|_torchdynamo\w*", path.read_text())
        assert not found or path.name == "private.py", (path, found)


# Reading tensors.


Subclass: Any = type("Subclass", (torch.Tensor,), {})


def examples() -> dict[str, Any]:
    x = torch.randn(3, 4)
    return {
        "plain": x,
        "parameter": torch.nn.Parameter(x),
        "none": None,
        "no tensor": 1,
        "transposed": x.t(),
        "a row": x[1:2],
        "every second row": x[::2],
        "of size one": x[:1].t().expand(4, 1),
        "double": x.double(),
        "half": x.half(),
        "integers": x.int(),
        "meta": x.to("meta"),
        "sparse": x.to_sparse(),
        "negative": torch._neg_view(x),
        "empty": x[:0],
        "a scalar": x[0, 0],
        "subclass": x.as_subclass(Subclass),
        "expanded": x[:1].expand(3, 4),
        "zero": torch._efficientzerotensor((3, 4)),
        "requires a gradient": x.clone().requires_grad_(),
        "inference": inference(x),
    }


def inference(x: Any) -> Any:
    with torch.inference_mode():
        return x.clone()


PLAIN = {"plain", "parameter", "none", "a row", "of size one", "a scalar", "requires a gradient", "inference"}


@pytest.mark.parametrize("name", examples())
@pytest.mark.parametrize("bits", [32, 64])
def test_both_ways_of_reading_agree(name: str, bits: int) -> None:
    t = examples()[name]
    shape = tuple(t.shape) if isinstance(t, torch.Tensor) else None
    found = tensors.read([t], [shape], bits)
    assert found == tensors._read_in_python([t], [shape], bits)
    assert (found is not None) == (name in ({"double"} if bits == 64 else PLAIN) or name == "none")
    if found and t is not None:
        assert found == (t.requires_grad, (t.data_ptr(),))
        for read in (tensors.read, tensors._read_in_python):
            assert read([t], [(*t.shape, 1)], bits) is None
            assert read([t], [None], bits) == found


def test_reading_many() -> None:
    x, p = torch.randn(2, 3), torch.nn.Parameter(torch.randn(4))
    for read in (tensors.read, tensors._read_in_python):
        assert read((x, None, p), ((2, 3), None, (4,)), 32) == (True, (x.data_ptr(), 0, p.data_ptr()))
        assert read((x, p.double()), (None, None), 32) is None
        with pytest.raises(ValueError, match="shape|zip"):
            read((x, p), (None,), 32)


@pytest.mark.skipif(tensors.read is tensors._read_in_python, reason="this PyTorch has no C exchange")
@pytest.mark.parametrize(
    "arguments",
    [(1, [None], 32), ([torch.zeros(1)], 1, 32), ([torch.zeros(1)], [1], 32), ([torch.zeros(1)], ["ab"], 32)],
)
def test_bad_arguments_of_the_reader(arguments: Any) -> None:
    with pytest.raises(TypeError):
        tensors.read(*arguments)


def test_bad_capsules() -> None:
    from fusedrnn import _core

    for capsule in (None, object(), torch.Tensor):
        with pytest.raises((TypeError, ValueError)):
            _core.make_tensor_reader(capsule, torch.Tensor, torch.nn.Parameter)


# Without private names.


@pytest.mark.parametrize("name", NAMES)
def test_without_a_private_name_calls_are_still_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, attribute in NAMES[name]:
        monkeypatch.delattr(owner, attribute)
    stand_in = runpy.run_path(str(Path(private.__file__)))[name]
    monkeypatch.undo()
    assert stand_in()  # the answer that is safe
    monkeypatch.setattr(private, name, stand_in)
    ours = frt.LSTM(3, 4, dtype=torch.float64)
    theirs = torch.nn.LSTM(3, 4, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    frt.set_fallback("ignore")
    try:
        assert_near(ours(x), theirs(x), ours, 5, 2)
    finally:
        frt.set_fallback("warn")


def test_where_tensors_are_read_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    import fusedrnn.torch.autograd
    import fusedrnn.torch.module
    import fusedrnn.torch.native

    rnn = frt.GRU(3, 4, num_layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    frt.reset_routes()
    want = torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters()))
    for module in (fusedrnn.torch.module, fusedrnn.torch.native, fusedrnn.torch.autograd):
        monkeypatch.setattr(module, "read", tensors._read_in_python)
    got = torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert frt.routes() == (2, 0, {})
