"""The compiled passes from several Python threads at once, each with a team of its own."""

import threading

import pytest
import torch

from wssl_fast.backends import native

F64 = torch.float64


@pytest.mark.parametrize("isa", native.instruction_sets() if native.available() else [])
def test_several_python_threads_share_their_inputs(isa: str) -> None:
    x = torch.randn(300, 200)
    scale, mean = torch.rand(300, dtype=F64), torch.rand(200, dtype=F64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found: list[list[torch.Tensor]] = [[] for _ in range(3)]

    def call(own: list[torch.Tensor]) -> None:
        given = {"scale": scale, "mean": mean, "isa": isa}
        own += [native.symmetric_product(x, covariance=c, **given) for c in (False, True)]
        inv, unit_mean = native.row_pass(x, isa=isa)
        t = native.tangent_epilogue_(x.clone(), x, a=scale, inv=inv, shift=mean, isa=isa)
        e = x.clone()
        total = native.exp_block_(e, s=0.3, row=scale, col=mean, isa=isa)
        own += [inv, unit_mean, t, e, torch.tensor(total)]

    try:
        threads = [threading.Thread(target=call, args=(own,)) for own in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    for own in found[1:]:
        assert len(own) == 7
        assert all(torch.equal(a, b) for a, b in zip(own, found[0], strict=True))
