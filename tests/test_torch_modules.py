"""PyTorch's own table of cases for its recurrent modules, put to ours."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
common = pytest.importorskip(
    "torch.testing._internal.common_modules",
    reason="PyTorch's table of cases for modules (it needs the package expecttest) is not here",
)

import fusedrnn.torch as frt  # noqa: E402
from torch_agreement import as_leaves, assert_agrees, by_kernels, outcome, tensors  # noqa: E402

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
INFOS = {name: info for name in NAMES for info in common.module_db if info.module_cls is getattr(torch.nn, name)}
modules = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    frt.reset_routes()
    yield
    frt.reset_routes()


class Case:
    """A row of the table: a module of each side with the same parameters, and arguments."""

    def __init__(self, name: str, row: Any, dtype: Any, training: bool, **further: Any) -> None:
        made = row.constructor_input
        given = {"dtype": dtype} | made.kwargs | further
        self.theirs = getattr(torch.nn, name)(*made.args, **given).train(training)
        self.ours = getattr(frt, name)(*made.args, **given).train(training)
        self.ours.load_state_dict(self.theirs.state_dict())
        # PyTorch's numbers lie within -9..9, where tanh is flat and 1 - y^2 is left with few digits on both sides.
        self.arguments = scaled(row.forward_input.args)
        assert not row.forward_input.kwargs
        self.reference = row.reference_fn
        self.steps = 1 if name.endswith("Cell") else len(self.arguments[0])


def scaled(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(scaled, value))
    return (value.detach() / 9).requires_grad_(value.requires_grad)


def rows(name: str, dtype: Any, training: bool, function: str = "module_inputs_func", grad: bool = True) -> Any:
    info = INFOS[name]
    made = getattr(info, function)(info, device="cpu", dtype=dtype, requires_grad=grad, training=training)
    assert len(made) >= 2
    return made


def cases(name: str, dtype: Any, training: bool = True, **further: Any) -> list[Case]:
    return [Case(name, row, dtype, training, **further) for row in rows(name, dtype, training)]


def test_the_table_has_all_modules() -> None:
    assert tuple(INFOS) == NAMES


@modules
@dtypes
@modes
def test_forward_and_gradients(name: str, dtype: Any, training: bool) -> None:
    for case in cases(name, dtype, training):
        with by_kernels():
            assert_agrees(case.ours, case.theirs, case.arguments, case.steps, 1)


@modules
@dtypes
@modes
def test_without_gradients(name: str, dtype: Any, training: bool) -> None:
    """The bits of a call with gradients; and those of PyTorch's reference of a case, the batch of one row."""
    for case in cases(name, dtype, training):
        with by_kernels(3):
            want = tensors(case.ours(*case.arguments))
            with torch.no_grad():
                got = tensors(case.ours(*case.arguments))
            reference = tensors(case.reference(case.ours, *case.arguments))
        for a, b, c in zip(got, want, reference, strict=True):
            assert not a.requires_grad
            assert torch.equal(a, b)
            assert torch.equal(a, c)


@modules
@dtypes
@modes
def test_errors(name: str, dtype: Any, training: bool) -> None:
    for row in rows(name, dtype, training, "module_error_inputs_func"):
        made, call = row.module_error_input.constructor_input, row.module_error_input.forward_input
        seen = []
        for module in (frt, torch.nn):
            result = outcome(getattr(module, name), *made.args, **made.kwargs)
            if row.error_on == common.ModuleErrorEnum.FORWARD_ERROR:
                result = outcome(result.to(dtype), *call.args, **call.kwargs)
            seen.append(result)
        assert seen[0] == seen[1]
        assert issubclass(seen[0][0], row.error_type)
        with pytest.raises(row.error_type, match=row.error_regex):
            raise seen[0][0](seen[0][1])


@modules
@pytest.mark.parametrize("order", ["first", "second"])
def test_gradcheck(name: str, order: str) -> None:
    check = torch.autograd.gradcheck if order == "first" else torch.autograd.gradgradcheck
    every = cases(name, torch.float64)
    for case in every[:: 3 if len(every) > 3 else 1]:  # of each option and its absence some
        names, parameters = zip(*case.ours.named_parameters(), strict=True)
        leaves = [*tensors(case.arguments), *parameters]
        count = len(leaves) - len(parameters)

        def run(*given: Any, case: Case = case, names: Any = names, count: int = count) -> Any:
            x, *states = given[:count]
            hx = states[0] if len(states) == 1 else tuple(states) or None
            parameters = dict(zip(names, given[count:], strict=True))
            return tuple(tensors(torch.func.functional_call(case.ours, parameters, (x, hx))))

        with by_kernels(None):
            assert check(run, leaves, fast_mode=order == "second", check_batched_grad=order == "first")


@modules
@dtypes
def test_copies(name: str, dtype: Any) -> None:
    """Pickles, copies and saved files, whose module is of the same class and gives the same bits."""

    def saved(module: Any) -> Any:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    ways: list[Callable[[Any], Any]] = [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, copy.copy, saved]
    for case in cases(name, dtype):
        case.ours(*case.arguments)
        for way in ways:
            other = way(case.ours)
            assert type(other) is getattr(frt, name)
            assert list(other.state_dict()) == list(case.ours.state_dict())
            assert vars(other).keys() - {"_plan"} == vars(case.theirs).keys()
            with by_kernels(2):
                pairs = zip(tensors(other(*case.arguments)), tensors(case.ours(*case.arguments)), strict=True)
                assert all(torch.equal(a, b) for a, b in pairs)


@modules
@dtypes
def test_inputs_and_parameters_that_are_not_contiguous(name: str, dtype: Any) -> None:
    def apart(t: Any) -> Any:
        wide = t.detach().repeat_interleave(2, -1)
        wide[..., 1::2] = float("nan")
        return wide[..., ::2].requires_grad_()

    for case in cases(name, dtype):
        leaves = as_leaves(case.arguments, dtype)
        arguments = tuple(tuple(map(apart, a)) if isinstance(a, tuple) else apart(a) for a in leaves)
        other = copy.deepcopy(case.ours)
        for key, p in case.ours.named_parameters():
            other._parameters[key] = torch.nn.Parameter(apart(p))
        assert not tensors(arguments)[0].is_contiguous()
        with by_kernels(2):
            got, want = tensors(other(*arguments)), tensors(case.ours(*leaves))
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)
        for outputs in (got, want):
            torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
        for a, b in zip([*tensors(arguments), *other.parameters()], [*tensors(leaves), *case.ours.parameters()],
                        strict=True):  # fmt: skip
            assert torch.equal(a.grad, b.grad)


@modules
@dtypes
def test_state_dicts_and_text(name: str, dtype: Any) -> None:
    for case in cases(name, dtype):
        assert repr(case.ours) == repr(case.theirs)
        assert list(case.ours.state_dict()) == list(case.theirs.state_dict())
        other = copy.deepcopy(case.theirs)
        case.ours.reset_parameters()
        assert str(other.load_state_dict(case.ours.state_dict())) == "<All keys matched successfully>"
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), case.ours.parameters(), strict=True))
        torch.manual_seed(5)
        case.ours.reset_parameters()
        torch.manual_seed(5)
        other.reset_parameters()
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), case.ours.parameters(), strict=True))
        broken = dict(case.ours.state_dict(), more=torch.zeros(1))
        broken.pop(next(iter(broken)))
        assert outcome(case.ours.load_state_dict, broken) == outcome(case.theirs.load_state_dict, broken)


@modules
@dtypes
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_devices(name: str, dtype: Any, device: str) -> None:
    for case in cases(name, dtype):
        moved = Case(name, rows(name, dtype, True)[0], dtype, True, device=device)
        assert {(p.device.type, p.dtype) for p in moved.ours.parameters()} == {(device, dtype)}
        case.ours(*case.arguments)
        if device == "meta":
            case.ours.to(device), case.theirs.to(device)
        arguments = tuple(
            tuple(t.to(device) for t in a) if isinstance(a, tuple) else a.to(device) for a in case.arguments
        )
        for a, b in zip(tensors(case.ours(*arguments)), tensors(case.theirs(*arguments)), strict=True):
            assert (a.device, a.dtype, a.shape, a.stride()) == (b.device, b.dtype, b.shape, b.stride())


@modules
@pytest.mark.parametrize("swap", [False, True], ids=["set", "swap"])
def test_to(name: str, swap: bool) -> None:
    """Moved to another dtype and back, a module runs as before, as it does to_empty and loaded again."""
    every = cases(name, torch.float32)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for case in every:
            state = copy.deepcopy(case.ours.state_dict())
            want = [t.detach() for t in tensors(case.ours(*case.arguments))]
            parameters = [id(p) for p in case.ours.parameters()]
            case.ours.to(torch.float64)
            with by_kernels():
                case.ours(*as_leaves(case.arguments, torch.float64))
            case.ours.to(torch.float32)
            assert [id(p) for p in case.ours.parameters()] == parameters
            with by_kernels(2):
                assert all(map(torch.equal, tensors(case.ours(*case.arguments)), want))
                case.ours.to_empty(device="cpu")
                with torch.no_grad():
                    for key, p in case.ours.named_parameters():
                        p.copy_(state[key])
                assert all(map(torch.equal, tensors(case.ours(*case.arguments)), want))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
