"""Masks of a call of layers, by names as those of parameters: ``zoneout_h_l0``, ``zoneout_h_l0_reverse``, ...; and
``dropout_l0``, of the outputs of layer 0, both directions side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import masks
from ..masks import Mask, Sizes
from .config import Config, name_of

BETWEEN, BITS = 2, 32  # the kind of dropout between layers, and the bits of a number: csrc/dropout.hpp


def options_of(config: Config, dropout: float) -> dict[str, float]:
    """The probabilities of all masks."""
    cells = {name_of(name, *place): p for place in config.places for name, p in config.regularisation.items()}
    between = range(config.num_layers - 1) if dropout else ()
    return cells | {name_of("dropout", layer, 0): dropout for layer in between}


def _sizes(config: Config, layer: int, seq_len: int, batch_size: int) -> Sizes:
    input_size = config.output_size if layer else config.input_size
    h = config.proj_size or config.hidden_size
    return Sizes(input_size, config.hidden_size, h, seq_len, batch_size, config.num_heads)


def of_seed(config: Config, dropout: float, seq_len: int, batch_size: int, seed: int) -> dict[str, Mask]:
    """The masks of a seed, read-only."""
    found = {}
    for layer, d in config.places:
        sizes = _sizes(config, layer, seq_len, batch_size)
        made = masks.of_seed(config.spec, config.regularisation, sizes, seed, layer, d)
        found.update({name_of(name, layer, d): mask for name, mask in made.items()})
    for layer in range(config.num_layers - 1) if dropout else ():
        sizes_of_y = seq_len, batch_size, config.output_size
        mask = found[name_of("dropout", layer, 0)] = between(seed, dropout, layer, config.num_directions, *sizes_of_y)
        mask.flags.writeable = False
    return found


def between(
    seed: int, dropout: float, layer: int, num_directions: int, seq_len: int, batch_size: int, width: int
) -> Mask:
    """The mask of the outputs of a layer, ``(seq_len, batch_size, width)``."""
    mask = np.zeros((seq_len, batch_size, width), bool)
    for d, part in enumerate(np.split(mask, num_directions, axis=2)):
        for t in range(seq_len):
            part[t] = masks.drawn(seed, BETWEEN, dropout, t, batch_size, part.shape[2], layer, d, bits=BITS)
    return mask


def copied(config: Config, dropout: float, seq_len: int, batch_size: int, given: Mapping[str, Any]) -> dict[str, Mask]:
    """Copies of a caller's masks, read-only, of which there is one for each option. Raises ValueError or TypeError for
    other arrays than masks are."""
    found = {}
    for layer, d in config.places:
        sizes = _sizes(config, layer, seq_len, batch_size)
        for name, p in config.regularisation.items():
            full = name_of(name, layer, d)
            found[full] = masks.copy_of(full, p, *masks.shape_of(config.spec, name, sizes), given[full])
    for layer in range(config.num_layers - 1) if dropout else ():
        full, shape = name_of("dropout", layer, 0), (seq_len, batch_size, config.output_size)
        units = "proj_size" if config.proj_size else "hidden_size"
        symbols = f"(seq_len, batch_size, num_directions*{units})"
        found[full] = masks.copy_of(full, dropout, symbols, shape, given[full])
    return found
