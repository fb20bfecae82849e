"""Leaves a sample of a Cosmic Ray session, drawn by a seed, and takes all other mutants out of it.

    python tools/sample_mutants.py session.sqlite --seed 1 --count 60

A place in the code is drawn first, then one of the changes that are possible there: else operators, each of which has
eleven others to become, would be nearly all of the sample. Annotations, which nothing evaluates, are no places. The
package and its reference get half of the sample each.
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

Position = tuple[int, int]


def annotated(path: Path) -> list[tuple[Position, Position]]:
    """Where annotations begin and end."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(note, ast.expr):
                assert note.end_lineno is not None
                assert note.end_col_offset is not None
                found.append(((note.lineno, note.col_offset), (note.end_lineno, note.end_col_offset)))
    return found


def places(items: tuple[Any, ...]) -> dict[tuple[str, Position], list[str]]:
    """The jobs of each place outside annotations."""
    found: dict[tuple[str, Position], list[tuple[str, int, str]]] = {}
    skipped: dict[Path, list[tuple[Position, Position]]] = {}
    for item in items:
        (mutation,) = item.mutations
        path, start = mutation.module_path, tuple(mutation.start_pos)
        if path not in skipped:
            skipped[path] = annotated(path)
        if not any(first <= start < last for first, last in skipped[path]):
            change = mutation.operator_name, mutation.occurrence, item.job_id  # job_id is another in each session
            found.setdefault((str(path), start), []).append(change)
    return {place: [job for _, _, job in sorted(found[place])] for place in sorted(found)}


def sample(items: tuple[Any, ...], seed: int, count: int) -> set[str]:
    """The jobs that are drawn."""
    rng = random.Random(seed)
    jobs = places(items)
    drawn: set[str] = set()
    for in_reference in (False, True):
        half = [place for place in jobs if ("reference" in Path(place[0]).parts) == in_reference]
        share = (count + in_reference) // 2
        drawn.update(rng.choice(jobs[place]) for place in rng.sample(half, min(share, len(half))))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("session")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    work_db: Any = import_module("cosmic_ray.work_db")  # at run time, as few who check this file have it
    with work_db.use_db(options.session, work_db.WorkDB.Mode.open) as session:
        if session.num_results:
            sys.exit(f"{options.session} has results already")
        items = session.work_items
        drawn = sample(items, options.seed, options.count)
        session.clear()
        session.add_work_items(item for item in items if item.job_id in drawn)
    print(f"{len(drawn)} mutants of {len(items)}")


if __name__ == "__main__":
    main()
