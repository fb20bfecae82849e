"""Measures one system in a process of its own, as thread pools disturb each other. Reads one JSON request a line from
standard input, writes one JSON answer a line."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from suite import Case
from systems import SYSTEMS


def seconds_per_call(run: Any, budget: float) -> float:
    """The mean over as many calls as fit the budget."""
    calls, start = 0, time.perf_counter()
    while True:
        run()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= budget:
            return elapsed / calls


def prepared(system: Any, case: dict[str, Any]) -> Any:
    kind = case.pop("kind", None)
    if kind == "layers":
        from layers import LayerCase

        return system.prepare_layers(LayerCase(**case))
    if kind == "modules":
        from modules import ModuleCase

        return system.prepare_module(ModuleCase(**case))
    return system.prepare(Case(**case))


def answer(system: Any, state: dict[str, Any], request: dict[str, Any]) -> Any:
    if request["do"] == "prepare":
        state["run"] = prepared(system, dict(request["case"]))
        if state["run"] is None:
            return False
        state["run"]()  # warm
        state["run"]()
        return True
    if request["do"] == "verify":
        return system.verify(Case(**request["case"]))
    if request["do"] == "time":
        return seconds_per_call(state["run"], request["budget"])
    if request["do"] == "call":
        return state["run"]()
    if request["do"] == "schedule":
        from fusedrnn import _core

        _core.set_schedule(request["name"])
        return system.shares()
    if request["do"] == "fma":
        from fusedrnn import _core

        rounds = int(2e7)
        return max(_core.probe_fma(request["f64"], rounds) for _ in range(3))
    if request["do"] == "read":
        from fusedrnn import _core

        rounds = max(3, int(3e8 / request["bytes"]))
        return max(_core.probe_read(request["f64"], request["bytes"], rounds) for _ in range(3))
    raise ValueError(f"do: got {request['do']!r}")


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    try:
        system = SYSTEMS[name](threads)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"versions": system.versions}), flush=True)
    state: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            result = {"result": answer(system, state, json.loads(line))}
        except Exception as error:  # told to the parent, which raises it
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
