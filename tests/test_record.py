"""The bits of today are those of tools/bits.json, for a few cases; `python tools/bits.py` has them all."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn

PATH = Path(__file__).parent.parent / "tools" / "bits.py"


@pytest.fixture(scope="module")
def bits() -> Any:
    spec = importlib.util.spec_from_file_location("bits", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bits_are_those_of_the_record(bits: Any) -> None:
    record, found = bits.survey(bits.chosen_cases(quick=True), fusedrnn.available_isas())
    assert found + bits.unlike_record(record) == []


def test_a_bit_that_depends_on_threads_is_found(bits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fusedrnn.rnn

    def wrong(*args: Any, **kwargs: Any) -> Any:
        out = right(*args, **kwargs)
        if fusedrnn.get_num_threads() == 3:
            out.y[0, 0, 0] = np.nextafter(out.y[0, 0, 0], out.y.dtype.type(2))
        return out

    monkeypatch.setattr(fusedrnn, "rnn", wrong)
    (case,) = (c for c in bits.all_cases() if c.name == "rnn_tanh float32 3,1,5,33")
    record, (inference, parts) = bits.survey([case], fusedrnn.available_isas())
    assert "outputs y: 1 of 99 elements differ, by at most 1 ulp" in inference
    assert "units 3 inference" in inference
    assert "units 2 inference" not in inference
    assert "outputs y: 2 of 99 elements differ, by at most 1 ulp" in parts
    assert bits.unlike_record(record) == []


def test_a_hash_that_is_not_recorded_is_found(bits: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bits, "RECORD", tmp_path / "bits.json")
    bits.RECORD.write_text(json.dumps({"bits": {"same": "1", "changed": "2", "gone": "3"}}))
    record = {"same": "1", "changed": "4", "new": "5"}
    found = ["changed: recorded 2, got 4", "new: recorded nothing, got 5"]
    assert bits.unlike_record(record) == found
    assert sorted(bits.unlike_record(record, whole=True)) == sorted([*found, "gone: recorded 3, got nothing"])
