"""``python -m fusedrnn``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fusedrnn
from agreement import element_bound
from fusedrnn.__main__ import main


def test_info_is_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    fusedrnn.show_config()
    assert printed == capsys.readouterr().out


def test_it_is_a_module_that_runs() -> None:
    command = [sys.executable, "-m", "fusedrnn", "info"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("fusedrnn ")


def onnx_file(path: Path) -> str:
    """Two layers, of which one has an activation that no cell has."""
    onnx = pytest.importorskip("onnx")
    from fusedrnn import convert

    model = convert.to_onnx(fusedrnn.LSTM(3, 8, bidirectional=True, rng=0))
    other = convert.to_onnx(fusedrnn.RNN(3, 8, rng=0))
    (node,) = (n for n in other.graph.node if n.op_type == "RNN")
    node.name = "odd"
    for i, name in enumerate(node.input):
        for tensor in other.graph.initializer:
            if tensor.name == name:
                tensor.name = node.input[i] = f"odd_{name}"
    del node.attribute[:]
    node.attribute.extend([onnx.helper.make_attribute("hidden_size", 8)])
    node.attribute.extend([onnx.helper.make_attribute("activations", ["Elu"])])
    model.graph.node.append(node)
    model.graph.initializer.extend(i for i in other.graph.initializer if i.name in node.input)
    (path / "model.onnx").write_bytes(model.SerializeToString())
    return str(path / "model.onnx")


def torch_file(path: Path) -> str:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.GRU(3, 8, 2).state_dict(), path / "model.pt")
    return str(path / "model.pt")


@pytest.mark.parametrize(
    ("make", "lines"),
    [
        (torch_file, ["(the whole file): GRU(3, 8, num_layers=2)", "1 of 1 recurrent layers can run here"]),
        (
            onnx_file,
            [
                "LSTM(3, 8, bidirectional=True)",
                "odd: cannot run here: activations: expected one of Sigmoid, Tanh",
                "1 of 2 recurrent layers can run here",
            ],
        ),
    ],
    ids=["torch", "onnx"],
)
def test_inspect(make: Any, lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", make(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for line in lines:
        assert line in printed
    assert re.search(r"^    weight_ih_l0 \((24|32), 3\) float32$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("make", "runtime"), [(torch_file, "torch.nn"), (onnx_file, "ONNX Runtime")], ids=["torch", "onnx"]
)
def test_bench(make: Any, runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its figures are positive, and both compute the same."""
    if runtime == "ONNX Runtime":
        pytest.importorskip("onnxruntime")
    assert main(["bench", make(tmp_path), "--seq-len", "5", "--batch", "2", "--rounds", "3"]) == 0
    printed = capsys.readouterr().out
    line = re.search(
        rf"fusedrnn (\S+) ms, {runtime} (\S+) ms, ratio (\S+), largest difference (\S+)$", printed, re.MULTILINE
    )
    assert line
    ours, theirs, ratio, difference = map(float, line.groups())
    assert min(ours, theirs, ratio) > 0
    # Two rows, five steps: fewer than 1,000 roundings of numbers below 1.
    assert difference < element_bound("float32", 1000)


def test_bench_of_what_the_runtime_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    from fusedrnn import convert

    convert.to_onnx(fusedrnn.GRU(3, 8, dtype="float64"), tmp_path / "model.onnx")
    assert main(["bench", str(tmp_path / "model.onnx"), "--rounds", "1"]) == 0
    assert "ONNX Runtime has no such layer by itself: dtype: expected float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.onnx", "No such file"),
        ("model.txt", "path: expected a suffix among .pt, .pth"),
        ("empty.pt", "path: expected a file of tensors"),
    ],
)
def test_errors_are_told_without_a_traceback(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    if name != "none.onnx":
        (tmp_path / name).write_bytes(b"nothing")
    assert main(["inspect", str(tmp_path / name)]) == 1
    printed = capsys.readouterr()
    assert text in printed.err
    assert printed.out == ""
    with pytest.raises(SystemExit) as e:
        main(["bench", "model.onnx", "--batch", "0"])
    assert e.value.code == 2
