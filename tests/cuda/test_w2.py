"""W2 with the k x k problem by csrc/cuda: the zoo, both formulations, and what a launch may do.

Without a CUDA device the kernel's own source runs in tests/cuda/emulator, and the kernels around it
in Triton's interpreter.
"""

import math
from collections.abc import Iterator

import pytest
import torch

import wssl_fast as wf
from tests import kernels
from tests.kernels import DEVICE, check, w2
from tests.tolerances import contract_tolerance, gradient_error, gradient_tolerance, value_tolerance
from tests.zoo import BY_NAME, COLLAPSED, RAW_SCALE, SHAPES, ZOO, Case
from wssl_fast import reference
from wssl_fast.backends import choice, cuda
from wssl_fast.backends.triton.launch import recorded

pytestmark = pytest.mark.usefixtures("a_device")
CASES = pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _by_cuda() -> Iterator[None]:
    with choice.use("cuda"):
        yield


@CASES
@pytest.mark.parametrize("shape", SHAPES)
def test_zoo_of_one_pass(case: Case, shape: str) -> None:
    check(case(*SHAPES[shape]), "highest")


@pytest.mark.parametrize(
    "name", ["gaussian", "soft_collapse", "noise_1e-3", "noise_3e-5", "one_hot", "mixed_norms"]
)
@pytest.mark.parametrize("shape", ["n<m", "n>m"])
def test_auto_asks_for_float64_where_it_must(name: str, shape: str) -> None:
    # by the kernel's own estimate; what follows then is Triton's, and tested there
    check(BY_NAME[name](*SHAPES[shape]), "auto")


@pytest.mark.parametrize("name", ["gaussian", "soft_collapse", "noise_1e-4"])
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_other_products_of_the_rows(name: str, precision: str) -> None:
    check(BY_NAME[name](*SHAPES["n<m"]), precision)


@pytest.mark.parametrize("case", [c for c in ZOO if c.name not in RAW_SCALE], ids=lambda c: c.name)
@pytest.mark.parametrize("shape", ["n<m", "n>m"])
def test_zoo_of_raw_rows(case: Case, shape: str) -> None:
    check(case(*SHAPES[shape]), "highest", normalize=False)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (60, 40)])
def test_raw_rows_far_from_their_target(n: int, m: int) -> None:
    kernels.far_from_its_target(n, m)


@CASES
def test_zoo_of_bfloat16_rows(case: Case) -> None:
    z = case(*SHAPES["n<m"], dtype=torch.bfloat16)
    value, grad = w2(z)
    assert (value.dtype, grad.dtype) == (torch.float32, torch.bfloat16)
    want = reference.wasserstein_uniformity(z).item()
    assert abs(value.item() - want) <= value_tolerance("auto")


@pytest.mark.parametrize("case", COLLAPSED, ids=lambda case: case.name)
@pytest.mark.parametrize(("n", "m"), [(48, 80), (6, 4), (2, 5)])
def test_collapsed_batches(case: Case, n: int, m: int) -> None:
    z = case(n, m)
    value, grad = w2(z, precision="highest")
    want = 1.0 if case.name == "zeros" else math.sqrt(2)
    assert abs(value.item() - want) <= value_tolerance("highest")
    pushed = (grad.double() * z.double().norm(dim=1, keepdim=True)).norm().item()
    assert pushed * n * math.sqrt(m) / 2 <= 1.5 * math.sqrt(n * min(n, m))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 2), (17, 5), (5, 17)])
@pytest.mark.parametrize("normalize", [True, False])
def test_smallest_shapes(shape: tuple[int, int], normalize: bool) -> None:
    check(torch.randn(shape), "auto", normalize=normalize)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
def test_a_ridge(shape: tuple[int, int]) -> None:
    z = torch.randn(shape)
    value, grad = w2(z, eps=1e-2, precision="highest")
    want = reference.wasserstein_uniformity(z, eps=1e-2)
    want_grad = reference.wasserstein_uniformity_grad(z, squared=True, eps=1e-2)
    assert abs(value - want) <= contract_tolerance(z.dtype)
    assert (grad - want_grad).norm() <= contract_tolerance(z.dtype) * want_grad.norm()


def test_the_device_decides_problem_by_problem() -> None:
    z = torch.stack([BY_NAME[name](24, 40) for name in ("gaussian", "noise_1e-4", "tiny_norms")])
    operator = torch.ops.wssl_fast.w2_gram.default
    for precision, want in (("auto", [False, True, True]), ("highest", [False, False, True])):
        deep = operator(z.to(DEVICE), True, True, 0.0, "auto", precision, True, "cuda")[4]
        assert deep.tolist() == want, precision
    value, grad = w2(z)
    for i, one in enumerate(z):
        alone, alone_grad = w2(one)
        assert torch.equal(value[i], alone)
        assert torch.equal(grad[i], alone_grad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
@pytest.mark.parametrize("normalize", [True, False])
def test_nan_stays_in_its_problem(bad: float, shape: tuple[int, int], normalize: bool) -> None:
    kernels.nan_stays_in_its_problem(bad, shape, normalize)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
@pytest.mark.usefixtures("poisoned")
def test_no_output_is_left_unwritten_and_nothing_differs_twice(shape: tuple[int, int]) -> None:
    kernels.nothing_is_unwritten_or_differs_twice(shape, precision="highest")


@pytest.mark.parametrize("covariance", [False, True])
def test_it_takes_the_place_of_one_launch(covariance: bool) -> None:
    z = (torch.randn(24, 12) if covariance else torch.randn(12, 24)).to(DEVICE)
    with recorded() as launches:
        wf.wasserstein_uniformity(z)
    names = [one.kernel.__name__ for one in launches]
    product = "covariance_kernel" if covariance else "gram_kernel"
    assert names[-4:-1:2] == [product, product]
    assert names[-3] == "newton_schulz"
    assert names[-1].startswith("newton_schulz_")  # float64, Triton's


def test_without_a_gradient_no_weights_are_made() -> None:
    z = torch.randn(2, 8, 12, device=DEVICE)
    outputs = torch.ops.wssl_fast.w2_gram(z, True, False, 0.0, "auto", "highest", False, "cuda")
    assert outputs[1].shape == (2, 0, 0)
    want = reference.wasserstein_uniformity(z)
    torch.testing.assert_close(outputs[0].double().cpu(), want.cpu(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["w2_gram", "w2_covariance"])
def test_opcheck(name: str) -> None:
    z = (torch.randn(2, 6, 9) if name == "w2_gram" else torch.randn(2, 9, 6)).to(DEVICE)
    arguments = (z.requires_grad_(), True, False, 0.0, "auto", "auto", True, "cuda")
    torch.library.opcheck(getattr(torch.ops.wssl_fast, name).default, arguments)


def test_what_it_cannot_do_is_an_error_that_says_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"k: 2049 given, at most 2048 expected; use .*'triton'"):
        wf.wasserstein_uniformity(torch.randn(2049, 2050, device=DEVICE), precision="highest")
    monkeypatch.setattr(cuda, "_module", None)
    monkeypatch.setattr(cuda, "_import_error", "no such file")
    with pytest.raises(RuntimeError, match=r"cuda was asked for by name.*nvcc"):
        wf.wasserstein_uniformity(torch.randn(4, 8, device=DEVICE))


def test_auto_takes_it_only_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    # PREFERRED names sizes with rows from hardware; there are none yet
    assert cuda.PREFERRED == {}
    z = torch.randn(12, 24, device=DEVICE)

    def root() -> str:
        with choice.use("auto" if DEVICE == "cuda" else "triton"), recorded() as launches:
            wf.wasserstein_uniformity(z)
        return str(launches[1].kernel.__name__)

    assert root() == "newton_schulz_small_kernel"
    if DEVICE == "cuda":
        name = f"sm_{cuda.device(torch.cuda.current_device()).capability}"
        monkeypatch.setitem(cuda.PREFERRED, name, (1, 64))
        assert root() == "newton_schulz"


def test_a_larger_batch() -> None:
    z = BY_NAME["noise_1e-3"](150, 220)  # several tiles of every shape, padding
    check(z, "highest")
    _, grad = w2(z)
    assert gradient_error(grad, z, above=3e-5) <= gradient_tolerance("auto")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(256, 2048), (512, 8192), (1024, 8192), (2048, 512)])
def test_cuda_graph(shape: tuple[int, int]) -> None:
    kernels.a_graph_replays(shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n", [256, 512, 1024])
def test_a_thousand_times_the_same_bits(n: int) -> None:
    z = torch.randn(n, 2 * n, device="cuda")
    first = wf.wasserstein_uniformity(z, precision="highest")
    again = torch.stack([wf.wasserstein_uniformity(z, precision="highest") for _ in range(1000)])
    assert bool((again == first).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_streams_at_once() -> None:
    batches = [torch.randn(n, 1024, device="cuda") for n in (300, 512)]
    want = [wf.wasserstein_uniformity(z, precision="highest") for z in batches]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in batches]
    found = []
    for _ in range(50):
        for z, stream in zip(batches, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(wf.wasserstein_uniformity(z, precision="highest"))
    torch.cuda.synchronize()
    assert all(torch.equal(value, want[i % 2]) for i, value in enumerate(found))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_second_device() -> None:
    z = torch.randn(300, 512)
    one, other = (wf.wasserstein_uniformity(z.to(f"cuda:{i}")) for i in (0, 1))
    assert other.device.index == 1
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(one.cpu(), other.cpu(), rtol=0, atol=1e-5)
