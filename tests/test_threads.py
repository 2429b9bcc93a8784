"""Calls from several threads at once, and calls that are interrupted."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import wssl_fast as wf
from wssl_fast.ops._arithmetic import plain_arithmetic

# both formulations, sizes on either side of where csrc/cpu takes a second thread
SHAPES = [(24, 40), (40, 24), (96, 300), (300, 96)]
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "w2": wf.wasserstein_uniformity,
    "w2, newton_schulz": lambda z: wf.wasserstein_uniformity(z, solver="newton_schulz"),
    "w2, highest": lambda z: wf.wasserstein_uniformity(z, precision="highest"),
    "uniformity": wf.uniformity,
    "effective_rank": wf.effective_rank,
    "frechet_distance": lambda z: wf.frechet_distance(z[::2], z[1::2]),
}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _untouched_settings() -> Iterator[None]:
    """Those of a new process before and after: the one word also sets backends."""
    for after in (False, True):
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"
        if not after:
            yield


def rows(n: int, m: int) -> Tensor:
    generator = torch.Generator().manual_seed(131 * n + m)
    return torch.randn(n, m, generator=generator).requires_grad_()


def value_and_grad(loss: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> list[Tensor]:
    z = rows(*shape)
    value = loss(z)
    return [value.detach(), torch.autograd.grad(value, z)[0]]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("setting", ["highest", "medium"])
def test_threads_at_once_compute_what_one_does(threads: int, setting: str) -> None:
    torch.set_float32_matmul_precision(setting)
    jobs = [(loss, shape) for loss in LOSSES.values() for shape in SHAPES]
    alone = [value_and_grad(*job) for job in jobs]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda job: value_and_grad(*job), jobs))
        assert list(pool.map(lambda _: torch.get_num_threads(), range(3))) == [threads] * 3
    assert all(same_bits(*each) for each in zip(together, alone, strict=True))
    assert torch.get_float32_matmul_precision() == setting


@pytest.mark.parametrize("shape", SHAPES)
def test_a_graph_built_here_goes_back_there(shape: tuple[int, int]) -> None:
    expected = value_and_grad(wf.wasserstein_uniformity, shape)[1]
    leaves = [rows(*shape) for _ in range(4)]
    values = [wf.wasserstein_uniformity(z) for z in leaves]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda value: value.backward(), values))
    assert all(torch.equal(z.grad, expected) for z in leaves)


class Inside:
    """A thread that stands inside the guard of an operator until told to leave."""

    def __init__(self) -> None:
        self._entered, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._entered.wait(10)

    def _run(self) -> None:
        with plain_arithmetic("cpu"):
            self._entered.set()
            self._leave.wait(10)

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def by_word() -> str:
    return torch.get_float32_matmul_precision()


def by_backend() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


Setting = tuple[Callable[[], str], Callable[[str], None], str, str]


@pytest.fixture(params=["by word", "by backend"])
def setting(request: pytest.FixtureRequest) -> Setting:
    """Reads and sets how float32 is multiplied; a lower setting, the one inside operators."""

    def set_by_backend(value: str) -> None:
        torch.backends.mkldnn.matmul.fp32_precision = value

    if request.param == "by word":
        return by_word, torch.set_float32_matmul_precision, "medium", "highest"
    return by_backend, set_by_backend, "bf16", "ieee"


@pytest.mark.parametrize("first_out", [0, 1])
def test_an_operator_that_ends_does_not_lower_the_products_of_another(
    setting: Setting, first_out: int
) -> None:
    """The setting is one for all threads: in, in, out, out in either order."""
    read, put, low, full = setting
    put(low)
    pair = [Inside(), Inside()]
    assert read() == full
    pair[first_out].leave()
    assert read() == full
    pair[1 - first_out].leave()
    assert read() == low


def test_a_setting_made_meanwhile_stays(setting: Setting) -> None:
    read, put, low, _ = setting
    put(low)
    operator = Inside()
    put("high" if low == "medium" else "tf32")
    made = read()
    operator.leave()
    assert read() == made


def test_settings_by_backend_are_taken() -> None:
    """PyTorch refuses to say its one word for them where they differ from it."""
    expected = value_and_grad(wf.wasserstein_uniformity, (300, 96))
    for backend in (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul):
        backend.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        assert same_bits(value_and_grad(wf.wasserstein_uniformity, (300, 96)), expected)
        assert backend.fp32_precision == "tf32"
        backend.fp32_precision = "none"


def test_an_inherited_setting_goes_on_being_inherited() -> None:
    torch.backends.fp32_precision = "tf32"
    try:
        wf.wasserstein_uniformity(rows(8, 12))
        assert torch.backends.mkldnn.matmul.fp32_precision == "tf32"
        torch.backends.fp32_precision = "ieee"
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = "none"


def interrupt(call: Callable[[], Any], at: int) -> bool:
    """Raises KeyboardInterrupt where Python looks for signals, the `at`-th time: as it enters a
    function and as a C function has returned. Whether it looked that often."""
    looks = 0

    def look(frame: Any, event: str, argument: Any) -> None:
        nonlocal looks
        if event in ("call", "c_return"):
            looks += 1
            if looks == at:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return looks >= at


# what is raised while a generator is closed Python itself reports and drops
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_an_interrupt_anywhere_leaves_settings_as_they_were(
    setting: Setting, shape: tuple[int, int]
) -> None:
    read, put, low, _ = setting
    put(low)
    z = rows(*shape)
    expected = wf.wasserstein_uniformity(z)
    at = 1
    while interrupt(lambda: wf.wasserstein_uniformity(z).backward(), at):
        assert read() == low, at
        assert torch.is_grad_enabled(), at
        at += 1
    assert at > 100  # it looked into the operators
    assert torch.equal(wf.wasserstein_uniformity(z), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is Unix's")
def test_a_fork_while_a_thread_computes_starts_from_the_callers_settings() -> None:
    torch.set_float32_matmul_precision("medium")
    operator = Inside()
    try:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                wf.wasserstein_uniformity(torch.eye(3, 4))
                code = 0 if torch.get_float32_matmul_precision() == "medium" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        operator.leave()
