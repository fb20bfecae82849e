"""The parameters of a layer: live arrays by name, and whether they have changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import _core
from ..aliases import Array


class Parameters(dict[str, Array]):
    """A layer's parameters by name. The arrays are the layer's own: a change in place changes the layer. Setting an
    item copies into the array; items cannot be added or deleted."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise KeyError(f"{name}: expected one of {', '.join(self)}")
        target = self[name]
        if value is not target:
            target[...] = checked(name, value, target)

    def update(self, *args: Any, **kwargs: Any) -> None:
        given = dict(*args, **kwargs)
        values = {name: checked(name, value, self[name]) for name, value in given.items()}
        for name, value in values.items():
            self[name] = value

    def __ior__(self, other: Any) -> Parameters:  # type: ignore[override, misc]
        self.update(other)
        return self

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "parameters: expected a change of an array, got one of the names: a layer has the same ones always"
        )

    __delitem__ = pop = popitem = clear = setdefault = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)


def checked(name: str, value: Any, target: Array) -> Array:
    """The value as an array of the target's dtype and shape; a tensor of PyTorch becomes one."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray):
        raise TypeError(_core.wrong_type(name, "a numpy.ndarray", type(value).__name__))
    if value.dtype != target.dtype:
        raise TypeError(_core.wrong_dtype(name, str(target.dtype), str(value.dtype)))
    if value.shape != target.shape:
        raise ValueError(f"{name}: expected shape {target.shape}, got {value.shape}")
    return value


class IncompatibleKeys(NamedTuple):
    """The names that a state dict lacks, and the names that it has and the layer lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(parameters: Mapping[str, Array], state_dict: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Copies the state dict into the arrays, once all of it has been checked."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a dict, got {type(state_dict).__name__}")
    keys = IncompatibleKeys(
        [name for name in parameters if name not in state_dict], [name for name in state_dict if name not in parameters]
    )
    found, errors, types = {}, [], []
    for name in parameters:
        if name in state_dict:
            try:
                found[name] = checked(name, state_dict[name], parameters[name])
            except (TypeError, ValueError) as e:
                errors.append(str(e))
                types.append(type(e))
    if strict:
        errors += [f"missing: {', '.join(keys.missing_keys)}"] if keys.missing_keys else []
        errors += [f"unexpected: {', '.join(map(str, keys.unexpected_keys))}"] if keys.unexpected_keys else []
    if errors:
        wrong_type = bool(types) and all(kind is TypeError for kind in types)
        raise (TypeError if wrong_type else ValueError)("state_dict: " + "; ".join(errors))
    for name, value in found.items():
        parameters[name][...] = value
    return keys


def _most_references(arrays: Mapping[str, Array]) -> int:
    return max(map(sys.getrefcount, arrays.values()))


class Watch:
    """Tells whether arrays may have changed since they were last compared with a copy. They may if someone else has
    held a reference to one of them since, which every view, buffer and tensor on its memory does."""

    ALONE = _most_references({"": np.empty(1)})

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._handed_out = True

    def hand_out(self) -> None:
        """Others can get at the arrays from now on."""
        self._handed_out = True

    def may_have_changed(self) -> bool:
        return self._handed_out or self._held()

    def look_again(self) -> None:
        """The arrays are compared now: a change matters from now on."""
        self._handed_out = self._held()

    def _held(self) -> bool:
        return not _COUNTS or _most_references(self._arrays) > self.ALONE


# Whether reference counts are exact: not where threads run without the GIL.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()
