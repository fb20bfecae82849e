"""The parameters of a layer: live arrays by name, and whether they have changed."""

from __future__ import annotations

import itertools
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
        self.update({name: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        given = dict(*args, **kwargs)
        for name in given:
            if name not in self:
                raise KeyError(f"{name}: expected one of {', '.join(self)}")
        copy_all({name: checked(name, value, self[name]) for name, value in given.items()}, self)

    def __ior__(self, other: Any) -> Parameters:  # type: ignore[override, misc]
        self.update(other)
        return self

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("parameters: expected a change of an array, got one of the names, which a layer keeps")

    __delitem__ = pop = popitem = clear = setdefault = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)


def checked(name: str, value: Any, target: Array) -> Array:
    """The value as an array of the target's dtype and shape; a tensor of PyTorch becomes one."""
    if hasattr(value, "detach"):
        try:
            value = value.detach().cpu().numpy()
        except Exception as e:  # whatever a tensor raises that is no array: of another dtype or layout, or without data
            raise TypeError(f"{name}: expected a tensor that is an array, got one that is not: {e}") from e
    if not isinstance(value, np.ndarray):
        raise TypeError(_core.wrong_type(name, "a numpy.ndarray", type(value).__name__))
    if value.dtype != target.dtype:
        raise TypeError(_core.wrong_dtype(name, str(target.dtype), str(value.dtype)))
    if value.shape != target.shape:
        raise ValueError(f"{name}: expected shape {target.shape}, got {value.shape}")
    return value


def copy_all(values: Mapping[str, Array], targets: Mapping[str, Array]) -> None:
    """Copies into the targets; values may be targets too, or views of them."""
    apart = {
        name: value.copy() if any(np.may_share_memory(value, a) for a in targets.values()) else value
        for name, value in values.items()
        if value is not targets[name]
    }
    for name, value in apart.items():
        targets[name][...] = value


class IncompatibleKeys(NamedTuple):
    """The names that a state dict lacks, and the names that it has and the layer lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(parameters: Mapping[str, Array], state_dict: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Copies the state dict into the arrays, once all of it has been checked."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a dict, got {type(state_dict).__name__}")
    state_dict = dict(state_dict)  # another thread may change it meanwhile
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
    copy_all(found, parameters)
    return keys


def _most_references(arrays: Mapping[str, Array]) -> int:
    return max(map(sys.getrefcount, arrays.values()))


class Watch:
    """Tells whether arrays may have changed since someone looked at them. They may if someone has been given them
    since, or has held a reference to one of them, as every view, buffer and tensor on its memory does. Where references
    cannot be counted, they may have changed at any time: on a free-threaded Python, and for arrays on another object's
    memory.

    Several threads may ask at once: what each has seen is its own, and is kept beside what it made of the arrays.
    """

    ALONE = _most_references({"": np.empty(1)})

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._countable = not _core.FREE_THREADED and all(a.flags.owndata for a in arrays.values())
        self._given = itertools.count(1)
        self._last_given = next(self._given)

    def hand_out(self) -> None:
        """Others can get at the arrays, or have changed them. Called when they have their references already."""
        self._last_given = next(self._given)

    def look(self) -> Seen:
        """Called before the arrays are compared or copied."""
        return self._last_given, self._held()

    def may_have_changed(self, since: Seen) -> bool:
        """Since `look` gave this."""
        last_given, was_held = since
        return self._last_given != last_given or was_held or self._held()

    def _held(self) -> bool:
        return not self._countable or _most_references(self._arrays) > self.ALONE


Seen = tuple[int, bool]  # the last one given, and whether someone held an array
