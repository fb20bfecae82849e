"""Nothing that a user of fusedrnn.torch does to tensors and modules crashes, or gives another result without a word."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.autograd.graph import saved_tensors_hooks  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_agreement import assert_near, by_kernels  # noqa: E402

T, B, I, H = 6, 3, 4, 8


def bits(tensors: Any) -> list[bytes]:
    return [t.detach().contiguous().numpy().tobytes() for t in tensors]


@pytest.fixture(autouse=True)
def _anew() -> None:
    torch.manual_seed(0)
    frt.reset_routes()


PAIRS: dict[str, Any] = {
    "layers": lambda n: frt.IndRNN(I, I, num_layers=n),
    "periods": lambda n: frt.ClockworkRNN(I, H, periods=(1, 2 * n)),
    "epsilon": lambda n: frt.LayerNormLSTM(I, H, epsilon=10.0**-n),
    "nonlinearity": lambda n: frt.RNN(I, H, nonlinearity=("tanh", "relu")[n - 1]),
    "reset": lambda n: frt.GRU(I, H, reset_after=n == 1),
    "batch_first": lambda n: frt.GRU(I, H, batch_first=n == 1),
}


@pytest.mark.parametrize("name", PAIRS)
def test_compiled_modules_of_one_class_are_not_mistaken_for_each_other(name: str) -> None:
    torch._dynamo.reset()
    x = torch.randn(T, B, I)
    with torch._dynamo.config.patch(allow_rnn=True):
        for n in (1, 2):
            module = PAIRS[name](n)
            compiled = torch.compile(module, backend="eager", fullgraph=True)
            assert bits(compiled(x)[:1]) == bits(module(x)[:1])
    torch._dynamo.reset()


def test_lengths_may_change_after_the_call() -> None:
    module, x = frt.GRU(I, H), torch.randn(T, B, I)
    want = torch.autograd.grad(module(x, lengths=[3, 2, 1])[0].sum(), list(module.parameters()))
    lengths = torch.tensor([3, 2, 1])
    y, _ = module(x, lengths=lengths)
    lengths.fill_(50)
    assert bits(torch.autograd.grad(y.sum(), list(module.parameters()))) == bits(want)
    clock = frt.ClockworkRNN(I, H, periods=(1, 3))
    start = torch.tensor([1, 2, 3])
    want = torch.autograd.grad(clock(x, start=start)[0].sum(), list(clock.parameters()))
    y, _ = clock(x, start=start)
    start.fill_(0)
    assert bits(torch.autograd.grad(y.sum(), list(clock.parameters()))) == bits(want)


def test_batch_sizes_may_change_after_the_call() -> None:
    module = frt.GRU(I, H, dtype=torch.float64)
    packed = pack_padded_sequence(torch.randn(T, B, I, dtype=torch.float64), [6, 4, 1])
    packed.data.requires_grad_()
    derivatives = []
    for change in (False, True):
        sequence = packed._replace(batch_sizes=packed.batch_sizes.clone())
        (g,) = torch.autograd.grad(module(sequence)[0].data.sin().sum(), packed.data, create_graph=True)
        if change:
            sequence.batch_sizes.fill_(1)
        derivatives += torch.autograd.grad(g.sum(), packed.data)
    assert bits(derivatives[:1]) == bits(derivatives[1:])


HOOKS: dict[str, Any] = {
    "a shorter reserve": lambda t: t[:16].clone() if t.dim() == 1 else t,
    "another shape": lambda t: t.transpose(0, 1).contiguous() if t.dim() == 3 else t,
    "another device": lambda t: t.to("meta"),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_that_give_back_something_else(hook: str) -> None:
    module, x = frt.LSTM(I, H), torch.randn(T, B, I)
    with saved_tensors_hooks(lambda t: t, HOOKS[hook]):
        y, _ = module(x)
        with pytest.raises((RuntimeError, NotImplementedError)):
            y.sum().backward()


def test_operators_check_what_they_are_given() -> None:
    from fusedrnn.torch.operator import operator_of

    module, x = frt.GRU(I, H), torch.randn(T, B, I)
    operator = operator_of(module._layout())
    parameters = [p.detach() for p in module.parameters()]
    for lengths in (torch.tensor([3]), torch.tensor([3, 2, 1], dtype=torch.int32), torch.tensor([7, 1, 1])):
        with pytest.raises(ValueError, match="lengths"):
            operator.forward(x, lengths, *[None] * 5, *parameters, 0.0, False)
    for resets in (torch.zeros(T, B), torch.zeros(B, T, dtype=torch.bool)):
        with pytest.raises(ValueError, match="resets"):
            operator.forward(x, None, None, resets, *[None] * 3, *parameters, 0.0, False)
    assert operator.forward(x, torch.tensor([3]).expand(B), *[None] * 5, *parameters, 0.0, False)[0][3:].eq(0).all()
    with pytest.raises(ValueError, match="plain tensors"):
        operator.forward(x, *[None] * 6, *parameters[:-1], parameters[-1][:-1], 0.0, False)
    y, h, reserve = operator.forward(x, *[None] * 6, *parameters, 0.0, True)
    wanted = [True, False, False, *[True] * 4]
    for bad in ([reserve[:16], y, h], [reserve, y[:1], h], [reserve, y, h.double()]):
        with pytest.raises((RuntimeError, ValueError)):
            operator.backward(x, *[None] * 6, *parameters, 0.0, *bad, wanted)


def test_operators_that_threads_ask_for_at_once() -> None:
    from fusedrnn.torch.operator import operator_of

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for hidden_size in range(H + 1, H + 6):  # of which nobody has asked yet
            layout, barrier = frt.GRU(I, hidden_size)._layout(), threading.Barrier(4)

            def ask(layout: Any = layout, barrier: Any = barrier) -> Any:
                barrier.wait()
                return operator_of(layout)

            with ThreadPoolExecutor(4) as pool:
                assert len({future.result() for future in [pool.submit(ask) for _ in range(4)]}) == 1
    finally:
        sys.setswitchinterval(interval)


def test_packed_sequences_whose_parts_do_not_fit() -> None:
    data = torch.randn(10, I)
    clock = frt.ClockworkRNN(I, H, periods=(1, 2))
    for sizes, order in (([5, 5], [0]), ([5, 6], None), ([5, 4], None), ([4, 6], None), ([10, 0], None)):
        indices = None if order is None else torch.tensor(order)
        with pytest.raises(RuntimeError):
            clock(PackedSequence(data, torch.tensor(sizes), indices, None), start=torch.arange(sizes[0]))


def test_gradients_of_another_type() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    module, x = frt.GRU(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    y = module(x)[0]
    want = torch.autograd.grad(y, list(module.parameters()), torch.ones_like(y), retain_graph=True)
    got = torch.autograd.grad(y, list(module.parameters()), TwoTensor(torch.ones_like(y), torch.ones_like(y)))
    assert_near([g.a if isinstance(g, TwoTensor) else g for g in got], want, module, T, B)


# Modules.


def test_cells_take_the_biases_that_they_have() -> None:
    x = torch.randn(B, I, dtype=torch.float64)
    for biases in (("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")):
        theirs = nn.GRUCell(I, H, dtype=torch.float64)
        for name in biases:
            setattr(theirs, name, None)
        want = theirs(x)
        assert_near(frt.convert(theirs)(x), want, theirs, 1, B)
    ours, theirs = frt.GRUCell(I, H, bias=False, dtype=torch.float64), nn.GRUCell(I, H, bias=False, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    given = {"bias_ih": torch.randn(3 * H, dtype=torch.float64), "bias_hh": torch.randn(3 * H, dtype=torch.float64)}
    assert_near(ours(x), theirs(x), ours, 1, B)
    want = torch.func.functional_call(theirs, given, x)
    assert_near(torch.func.functional_call(ours, given, x), want, ours, 1, B)
    assert_near(ours(x), theirs(x), ours, 1, B)
    for cell in (ours, theirs):
        for name, value in given.items():
            delattr(cell, name)
            cell.register_buffer(name, value)
    assert_near(ours(x), want, ours, 1, B)


def test_first_calls_of_several_threads() -> None:
    x, errors = torch.randn(T, B, I), []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            module = frt.GRU(I, H)

            def call(module: Any = module) -> None:
                try:
                    with torch.no_grad():
                        module(x)
                except Exception as e:  # told below
                    errors.append(e)

            threads = [threading.Thread(target=call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors


def test_copies_of_a_dict_keep_nothing_in_common() -> None:
    module, x = frt.RNN(I, H), torch.randn(T, B, I)
    want = bits(module(x)[:1])
    replica = module._replicate_for_data_parallel()
    replica._parameters = dict(module._parameters)
    replica.mode = "RNN_RELU"
    assert bits(replica(x)[:1]) != want
    assert bits(module(x)[:1]) == want


def test_attributes_of_subclasses() -> None:
    class Mine(frt.LSTM):
        def __init__(self, size: int) -> None:
            super().__init__(size, H)
            self.options = {"lr": 1}
            self.registry = self.states = self.spec = None

    module = Mine(I)
    with by_kernels():
        module(torch.randn(T, B, I))


def test_freezing_again_what_can_no_longer_be_frozen() -> None:
    module, x = frt.freeze(frt.GRU(I, H)), torch.randn(T, B, I)
    nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    with torch.no_grad(), pytest.raises(RuntimeError, match="weight_hh_l0 was replaced"):
        module(x)
    with torch.no_grad():
        frt.freeze(module)(x)
    with torch.inference_mode():
        other = frt.freeze(frt.GRU(I, H))
        before = other(x)[0]
        other.weight_hh_l0.add_(1)
        assert bits([other(x)[0]]) != bits([before])


def test_attributes_that_do_not_fit() -> None:
    x = torch.randn(T, B, I)
    for module in (frt.GRU(I, H), frt.IndRNN(I, H)):
        module.bidirectional = True
        with pytest.raises(RuntimeError, match="its attributes do not fit its parameters"):
            module(x, lengths=[1] * B)
    module = frt.IndRNN(I, H)
    del module.weight_hh_l0
    with pytest.raises(RuntimeError, match="its attributes do not fit its parameters"):
        module(x)
    for cls in (nn.RNNCell, frt.RNNCell):
        with pytest.raises(RuntimeError, match="Unknown nonlinearity: TANH"):
            cls(I, H, nonlinearity="TANH")(x[0])


def test_more_threads_than_a_kernel_takes() -> None:
    module, x, n = frt.GRU(I, H), torch.randn(T, B, I), torch.get_num_threads()
    want = bits(module(x)[:1])
    torch.set_num_threads(2000)
    try:
        assert bits(module(x)[:1]) == want
    finally:
        torch.set_num_threads(n)
