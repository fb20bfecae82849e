"""Fuzzes fusedrnn: valid calls, garbage, and what may kill a process, for so many seconds in all.

    python tools/fuzz.py                                # a minute, from a random seed, which is printed
    python tools/fuzz.py --seconds 3600 --seed 7        # an hour
    python tools/fuzz.py --part garbage --seed 7 --only 1234     # one call again; or 1200-1234, in one process
    python tools/fuzz.py --part children --seed 7 --only fork_while_packing    # one scenario again

Everything follows from the seed but for time: how far a run comes, and how threads meet. Each part ends with a line of
counts; then come the failures, each with the command that repeats it. The exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import re
import resource
import secrets
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().with_name("common")))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.fuzzing.follow import Log, Plan, Tally, make_calls

PARTS = {"valid": 0.3, "garbage": 0.3, "children": 0.4}  # the shares of the time
CALLS_OF_A_CHILD = 10_000
SHOWN = 40  # failures
OF_CHILDREN = {
    "worker": str,
    "child": str,
    "first": int,
    "last": int,
    "pipe": int,
    "withhold": str,
}  # what they are told


def work(args: argparse.Namespace) -> None:
    """What a child does: calls from number `first` on, until the time is over."""
    from tools.fuzzing import garbage, memory, valid

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    log, withheld = Log(args.pipe), set(json.loads(args.withhold))
    deadline = time.monotonic() + args.seconds
    last = args.first + CALLS_OF_A_CHILD - 1 if args.last is None else args.last
    if args.worker == "garbage":
        garbage.prepare()
    index, watch = args.first, memory.Watch()
    while index <= last and (args.last is not None or time.monotonic() < deadline):
        if args.worker == "garbage":
            garbage.make_call(args.seed, index, log, withheld)
        else:
            valid.make_call(args.seed, index, log, watch)
        index += 1
    log.end(index)


def run_part(part: str, args: argparse.Namespace) -> Tally:
    if part == "children":
        from tools.fuzzing import children

        return children.run(args.seed, args.seconds * args.share[part], args.only)
    first, last = 0, None
    if args.only:
        begin, _, end = args.only.partition("-")
        first, last = int(begin), int(end or begin)
    return make_calls(Plan(part, args.seed, first, last, args.hang), args.seconds * args.share[part])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="in all, shared by the parts (default: 60)")
    parser.add_argument("--seed", type=int, help="default: a random one")
    parser.add_argument("--part", choices=PARTS, help="this one alone")
    parser.add_argument("--only", help="a call's number, a range of them, or a scenario's name; needs --part")
    parser.add_argument("--hang", type=float, default=20, help="seconds of one call that count as a hang (default: 20)")
    for name, kind in OF_CHILDREN.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only and not args.part:
        parser.error("--only needs --part")
    if args.only and args.part != "children" and not re.fullmatch(r"\d+(-\d+)?", args.only):
        parser.error(f"--only: expected a number, or two as 1200-1234, got {args.only!r}")
    args.share = {args.part: 1.0} if args.part else PARTS
    return args


def report(tallies: list[Tally]) -> int:
    """Prints notes and failures; how many failures there are."""
    failures = [f for tally in tallies for f in tally.failures.values()]
    for note in dict.fromkeys(note for tally in tallies for note in tally.notes):
        print(note)
    for failure in failures[:SHOWN]:
        print(f"\n{failure.describe()}")
    if len(failures) > SHOWN:
        print(f"\n... and {len(failures) - SHOWN} more kinds")
    return len(failures)


def main() -> int:
    args = arguments()
    if args.worker:
        work(args)
        return 0
    if args.child:
        from tools.fuzzing import scenarios

        return scenarios.play(args.child, args.seed, args.seconds)
    args.seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    print(f"seed {args.seed}", flush=True)
    tallies = []
    for part in args.share:
        tallies.append(run_part(part, args))
        print(tallies[-1].line(), flush=True)
    return 1 if report(tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
