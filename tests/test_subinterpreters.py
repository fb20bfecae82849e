"""A subinterpreter does not get the package, and is told so; the main interpreter goes on. Each in a process of its
own."""

from __future__ import annotations

import pytest

from children import child

# create(own): an interpreter with a GIL of its own, or with the main one's; before Python 3.12 none has its own.
# run(interpreter, code) raises what the code raises, as another exception.
PREAMBLE = """
    import sys
    if sys.version_info >= (3, 13):
        import _interpreters
        create = lambda own: _interpreters.create("isolated" if own else "legacy")
        def run(interpreter, code):
            failed = _interpreters.exec(interpreter, code)
            assert not failed, failed.formatted
    else:
        import _xxsubinterpreters as _interpreters
        create = lambda own: _interpreters.create(isolated=own)
        run = _interpreters.run_string
    import_it = '''if True:
        try:
            import fusedrnn
        except ImportError as e:
            print(str(e).splitlines()[0])
        else:
            print("imported")
    '''
"""
REFUSED = (
    "fusedrnn works in the main interpreter alone, and not in subinterpreters",
    "module fusedrnn._core does not support loading in subinterpreters",  # Python's own words, from 3.13 on
)


@pytest.mark.parametrize("own", [True, False], ids=["own GIL", "shared GIL"])
@pytest.mark.parametrize("first", ["main", "sub"])
def test_the_import_is_refused(own: bool, first: str) -> None:
    """Whichever interpreter asks first, and again; the main one works before, meanwhile and afterwards."""
    use = """
    import numpy as np, fusedrnn
    w = fusedrnn.GRUWeights(np.ones((9, 2), "f4"), np.ones((9, 3), "f4"))
    use = lambda: fusedrnn.gru(np.ones((4, 1, 2), "f4"), w).y.tobytes()
    want = use()
    """
    code = f"""
    own = {own}
    {use if first == "main" else ""}
    sub = create(own)
    run(sub, import_it)
    run(sub, import_it)
    {use if first == "sub" else ""}
    assert use() == want
    _interpreters.destroy(sub)
    assert use() == want
    layer = fusedrnn.LSTM(2, 3, rng=0)
    layer.stream().step(np.ones((1, 2), "f4"))
    print("end")
    """
    *refusals, end = child(PREAMBLE + code).splitlines()
    assert end == "end"
    assert len(refusals) == 2
    assert set(refusals) <= set(REFUSED)
