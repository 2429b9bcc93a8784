"""The launch plan, arithmetic on sizes: which tiles, in which phase, on which slots."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cuda.emulated import H200
from wssl_fast.backends import cuda
from wssl_fast.backends.cuda import Device
from wssl_fast.backends.eager.newton_schulz import SCHEDULES

pytestmark = pytest.mark.usefixtures("planning")
COEFFICIENTS = SCHEDULES[torch.float32]
NONE = 255
INSTALLED = cuda._module  # before a fixture puts the emulated one there
A100, L40 = Device(108, 163 * 1024, 80), Device(142, 99 * 1024, 89)
SIZES = [1, 2, 31, 32, 33, 64, 65, 100, 127, 129, 256, 257, 511, 512, 1000, 1024, 2047, 2048]


class Machine:
    """Runs the jobs of a schedule on whole float64 matrices, and watches the slots."""

    def __init__(self, root0: Tensor, shift: float) -> None:
        self.slots: dict[int, Tensor] = {0: root0}
        self.versions: dict[int, int] = defaultdict(int)
        self.unfinished: dict[int, dict[str, Any]] = {}  # by out slot
        self.shift = shift
        self.sums: list[Tensor] = []

    def phase(self, jobs: list[dict[str, Any]]) -> None:
        """Jobs that run at once: none may read what another writes."""
        written = {slot for job in jobs for slot in (job["out"], job["transposed"])} - {NONE}
        assert len(written) == sum((j["out"] != NONE) + (j["transposed"] != NONE) for j in jobs)
        for job in jobs:
            for slot in (job["left"], job["right"]):
                assert slot not in written, "a slot is read in the phase that writes it"
                assert slot not in self.unfinished, "a slot is read before its product is whole"
        for job in jobs:
            self.run(job)

    def run(self, job: dict[str, Any]) -> None:
        begin, end = job["tiles"]
        versions = (self.versions[job["left"]], self.versions[job["right"]])
        earlier = self.unfinished.pop(job["out"], None)
        if begin > 0:
            assert earlier is not None
            assert earlier["tiles"][1] == begin, "tiles follow each other without a gap"
            assert earlier["versions"] == versions, "an operand changed between parts of a product"
        else:
            assert earlier is None
        if end < job["of"]:
            self.unfinished[job["out"]] = job | {"versions": versions}
            return
        assert end == job["of"]
        x = self.product(job)
        if job["out"] != NONE:
            self.slots[job["out"]] = x
            self.versions[job["out"]] += 1
        if job["transposed"] != NONE:
            self.slots[job["transposed"]] = x.T
            self.versions[job["transposed"]] += 1

    def product(self, job: dict[str, Any]) -> Tensor:
        left, right = self.slots[job["left"]], self.slots[job["right"]]
        eye = torch.eye(len(left), dtype=left.dtype)
        torch.testing.assert_close(right, right.T, rtol=0, atol=1e-9)  # the kernel takes its rows
        c0, c1, c2 = COEFFICIENTS[job["step"]]
        if job["role"] == "first_polynomial":
            left = left + self.shift * eye
            return c0 * eye + c1 * left + c2 * left @ left
        if job["role"] == "polynomial":
            return c0 * eye + c1 * left + c2 * left @ right
        if job["role"] == "first_product":
            return left @ (right + self.shift * eye)
        if job["role"] == "correction":
            return eye + 0.5 * self.shift * left @ right
        if job["role"] == "root":
            self.sums.append(left @ right)
        return left @ right


def waves(jobs: list[dict[str, Any]], blocks: int) -> int:
    return -(-sum(job["tiles"][1] - job["tiles"][0] for job in jobs) // blocks)


@pytest.mark.parametrize("tile", range(4))
@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 64, 108, 132, 148])
@pytest.mark.parametrize(("k", "batch"), [(32, 1), (257, 1), (512, 1), (1024, 1), (96, 5)])
def test_a_schedule_computes_the_root(tile: int, blocks: int, k: int, batch: int) -> None:
    phases = cuda.schedule(k, batch=batch, device=Device(blocks, 227 * 1024, 90), tile=tile)
    eigenvalues = torch.logspace(-3, 0, 12, dtype=torch.float64)
    eigenvalues /= eigenvalues.norm()
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    shift = 1e-6
    machine = Machine((basis * (eigenvalues - shift)) @ basis.T, shift)
    for jobs in phases:
        machine.phase(jobs)
    assert not machine.unfinished
    # shifted, then taken back to first order: what is left is 3/8 (shift/lambda)^2
    want = (basis * (eigenvalues - shift) ** -0.5) @ basis.T
    torch.testing.assert_close(machine.slots[2], want, rtol=1e-5, atol=1e-5 * want.abs().max())
    (root,) = machine.sums
    torch.testing.assert_close(root @ root, machine.slots[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [2, 3, 7, 8])
def test_steps_of_every_number_end(steps: int) -> None:
    phases = cuda.schedule(300, steps=steps, device=H200)
    # P, T, R a step, without T and R in the last; the last Q, B, Q B, Y
    assert len(phases) == 3 * (steps - 1) + 1 + 4
    products = sum(len([j for j in jobs if j["tiles"][0] == 0]) for jobs in phases)
    assert products == 4 * steps - 3 + 3  # product_count of eager/newton_schulz.py, and the finish


def test_the_background_saves_waves() -> None:
    # k = 512 in tiles of 64 x 32: RR 72, T 128, R 72, Q 128 tiles on 132 blocks
    phases = cuda.schedule(512, device=H200, tile=2)
    assert sum(waves(jobs, 132) for jobs in phases) == 26
    one_after_the_other = 7 + 6 + 6 * 2 + 1 + 3  # R and Q of a step in a phase: 200 tiles, 2 waves
    assert one_after_the_other == 29


@pytest.mark.parametrize("device", [H200, A100, L40], ids=["H200", "A100", "L40"])
@pytest.mark.parametrize("k", SIZES)
def test_plans(k: int, device: Device) -> None:
    for multiple in (1, 64, 128):
        plan = cuda.plan(k, splits=4, multiple=multiple, device=device)
        rows, columns, depth, stages = cuda.tiles()[plan.tile]
        assert (plan.rows, plan.columns) == (rows, columns)
        assert plan.kp >= k
        assert plan.kp % rows == plan.kp % columns == plan.kp % depth == plan.kp % multiple == 0
        assert plan.kp < k + max(rows, depth, multiple)
        assert stages * (rows + columns) * depth * 4 <= plan.shared_bytes <= device.shared_bytes
        assert plan.shared_bytes >= 8 * plan.kp  # a vector of the row-wise phases
        assert 1 <= plan.blocks <= device.blocks
        assert plan.slots == 7
        assert plan.barriers == 26
        tiles = (plan.kp // rows) * (plan.kp // columns)
        assert plan.numbers == 16 + 4 * plan.kp + 3 * tiles
    assert cuda.plan(k, splits=9, device=device).slots == 10


@pytest.mark.skipif(INSTALLED is None, reason="wssl_fast._cuda was not built")
@pytest.mark.parametrize("k", [64, 512, 1000])
def test_the_installed_module_plans_alike(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want = cuda.schedule(k, device=H200), cuda.estimate(k, device=H200)
    monkeypatch.setattr(cuda, "_module", INSTALLED)
    assert (cuda.schedule(k, device=H200), cuda.estimate(k, device=H200)) == want


@pytest.mark.parametrize("k", [64, 256, 512, 1024, 2048])
def test_the_fastest_tile_by_the_model_is_taken(k: int) -> None:
    found = [cuda.estimate(k, device=H200, tile=tile)["seconds"] for tile in range(4)]
    chosen = cuda.estimate(k, device=H200)
    assert chosen["seconds"] == min(found)
    assert chosen["tile"] == found.index(min(found))
    assert chosen["seconds"] >= chosen["barriers"] * 1.5e-6 + max(
        chosen["multiply"], chosen["load"]
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k: 0 given, at least 1 expected"),
        ({"k": 2049}, "k: 2049 given, at most 2048 expected; use the backend 'triton' there"),
        ({"batch": 0}, "batch: 0 given"),
        ({"splits": 0}, "splits: 0 given"),
        ({"multiple": 48}, "multiple: 48 given, a power of two expected"),
        ({"tile": 4}, "tile: 4 given, -1 to 3 expected"),
        ({"batch": 2**29}, "batch: 536870912 given, fewer than 2\\^30 tiles in all expected"),
        ({"steps": 1}, "steps: 1 given, 2 to 8 expected"),
        (
            {"device": Device(68, 64 * 1024, 75)},
            "compute capability: 75 given, 80 or higher expected; use the backend 'triton' there",
        ),
        (
            {"device": Device(68, 48 * 1024, 80)},
            "shared memory of a block: 49152 given, .* or more expected; use the backend 'triton'",
        ),
        (
            {"device": L40, "tile": 0},
            "shared memory of a block: 101376 given, 147520 or more expected",
        ),
    ],
)
def test_what_has_no_plan_is_named(given: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"k": 64, "device": H200, **given}
    with pytest.raises(ValueError, match=message):
        cuda.plan(arguments.pop("k"), **arguments)
