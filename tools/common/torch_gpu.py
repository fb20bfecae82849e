"""Modules of fusedrnn.torch for tests on an emulated GPU."""

from __future__ import annotations

import copy
from typing import Any

import torch

import fusedrnn.torch as frt
from torch_pairs import one_or_all

T, B, I, H = 4, 3, 5, 6


def layers(kind: str = "GRU", **options: Any) -> Any:
    return getattr(frt, kind)(I, H, **options)


def theirs_of(ours: Any) -> Any:
    """torch.nn's module of the same parameters."""
    return frt.revert(copy.deepcopy(ours))


def states_of(module: Any, lead: tuple[int, ...]) -> Any:
    """Random ones that need gradients."""
    layout = module._layout()
    return one_or_all([torch.randn(*lead, units, requires_grad=True) for units in layout.units])
