"""A case: one call of one public function on tensors that a seed and a few words describe.

It is printed as one line of `name=value`, defaults left out, and made again from that line.
"""

import random
from dataclasses import dataclass, fields, replace
from typing import Any

FUNCTIONS = {
    "wasserstein_uniformity": 60,
    "uniformity": 8,
    "alignment": 6,
    "frechet_distance": 6,
    "batch_covariance": 4,
    "gaussian_w2": 3,
    "matrix_sqrt": 3,
    "matrix_inv_sqrt": 2,
    "effective_rank": 3,
    "rankme": 2,
    "covariance_spectrum": 2,
    "losses": 2,
    "wrong_arguments": 2,
    "streams": 5,
    "training": 6,
}
"""What is called, and how often of a hundred or so. The last two are programs of many calls."""

SPECTRA = {
    "full": 25,
    "rank": 10,
    "rank_one": 5,
    "power_law": 10,
    "log_spaced": 15,
    "noise": 15,
    "clusters": 5,
    "flat": 5,
    "one_hot": 4,
    "constant": 4,
    "zero": 2,
}
TRAITS = (
    "duplicated",
    "clones",
    "antipodal",
    "zero_rows",
    "dead_columns",
    "cloned_columns",
    "few_bits",
    "subnormal",
)
LAYOUTS = (
    "rows",
    "columns",
    "strided",
    "window",
    "odd_offset",
    "same_row",
    "same_column",
    "same_problem",
    "batch_last",
)
DTYPES = {"float32": 50, "float64": 15, "float16": 15, "bfloat16": 20}
PRECISIONS = {"auto": 50, "double": 15, "highest": 20, "high": 8, "medium": 7}
BATCHES = ((), (0,), (1,), (2,), (3,), (2, 2), (2, 0), (1, 3))
RANGE = {"float16": (-3, 3)}
"""Powers of ten that entries may have; of the other dtypes WIDEST."""
WIDEST = (-30, 30)
LARGEST = 300


@dataclass(frozen=True)
class Case:
    """Attributes:
    seed: of the numbers.
    n, m, other, batch: rows (..., n, m), and (..., other, m) of a second argument.
    depth: the last singular value, or the noise, is 10^-depth of the first.
    mean: a common row of 10^mean times the spread is added, where mean is not 0.
    row_scales: rows are scaled by powers of ten up to this, each its own.
    scale: all rows are scaled by 10^scale.
    backend: `compiled`, csrc/cpu where it is built; or `plain`, PyTorch calls alone.
    bad: `nan` or `inf` put into the first of several problems.
    """

    seed: int
    function: str = "wasserstein_uniformity"
    n: int = 2
    m: int = 2
    other: int = 2
    batch: tuple[int, ...] = ()
    dtype: str = "float32"
    layout: str = "rows"
    spectrum: str = "full"
    depth: int = 0
    traits: tuple[str, ...] = ()
    mean: int = 0
    row_scales: int = 0
    scale: int = 0
    backend: str = "compiled"
    normalize: bool = True
    squared: bool = False
    eps: float = 0.0
    solver: str = "auto"
    precision: str = "auto"
    t: float = 2.0
    alpha: float = 2.0
    bad: str = ""

    def __str__(self) -> str:
        given = [f"seed={self.seed}"]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                given.append(f"{field.name}={_text(value)}")
        return " ".join(given)

    @classmethod
    def parse(cls, line: str) -> "Case":
        """The case that prints as `line`."""
        kinds = {field.name: field for field in fields(cls)}
        given: dict[str, Any] = {}
        for part in line.split():
            name, equals, text = part.partition("=")
            if not equals or name not in kinds:
                raise ValueError(f"no {name!r} in a case: {', '.join(kinds)}")
            given[name] = _value(name, text, kinds[name].default)
        if "seed" not in given:
            raise ValueError(f"a case needs a seed: {line!r}")
        return cls(**given)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value)


def _value(name: str, text: str, default: object) -> object:
    if name == "seed":
        return int(text)
    if name == "batch":
        return tuple(int(size) for size in text.split("x"))
    if name == "traits":
        return tuple(text.split("x"))
    if isinstance(default, bool):
        return text == "True"
    assert isinstance(default, int | float | str)
    return type(default)(text)


def draw(seed: int) -> Case:
    """The case of a seed: mostly W2, mostly small shapes, half of them plain in most respects."""
    rng = random.Random(seed)

    def one_of(weights: dict[str, int]) -> str:
        return rng.choices(list(weights), list(weights.values()))[0]

    def sometimes(chance: float) -> bool:
        return rng.random() < chance

    function, dtype = one_of(FUNCTIONS), one_of(DTYPES)
    batch = rng.choice(BATCHES[1:]) if sometimes(0.2) else ()
    largest = LARGEST if not batch else 40
    n, m, other = (round(largest ** rng.random() ** 1.2) for _ in range(3))
    if sometimes(0.25):
        m = max(1, n + rng.randint(-1, 1))
    low, high = RANGE.get(dtype, WIDEST)
    return fitting(
        Case(
            seed=seed,
            function=function,
            n=n,
            m=m,
            other=other,
            batch=batch,
            dtype=dtype,
            layout=rng.choice(LAYOUTS) if sometimes(0.4) else "rows",
            spectrum=one_of(SPECTRA),
            depth=rng.randint(0, 9),
            traits=tuple(rng.sample(TRAITS, rng.randint(1, 2))) if sometimes(0.4) else (),
            mean=rng.randint(-1, 6) if sometimes(0.2) else 0,
            row_scales=rng.randint(1, high) if sometimes(0.15) else 0,
            scale=rng.randint(low, high) if sometimes(0.4) else 0,
            backend="plain" if sometimes(0.3) else "compiled",
            normalize=sometimes(0.65),
            squared=sometimes(0.5),
            eps=10.0 ** rng.randint(-12, 0) if sometimes(0.15) else 0.0,
            solver=rng.choice(("auto", "eigh", "newton_schulz")),
            precision=one_of(PRECISIONS),
            t=rng.choice((2.0, 2.0, 0.5, 20.0, 10.0 ** rng.randint(-3, 4))),
            alpha=rng.choice((2.0, 1.0, 0.5, 3.0, 3.5)),
            bad=rng.choice(("nan", "inf")) if sometimes(0.5) else "",
        )
    )


def fitting(case: Case) -> Case:
    """The case without what means nothing for its function: words that change nothing would be
    counted as tried."""
    plain = Case(seed=0)
    drop = {
        "uniformity": ("squared", "eps", "solver", "precision", "alpha", "other"),
        "alignment": ("squared", "eps", "solver", "precision", "t", "other"),
        "wasserstein_uniformity": ("t", "alpha", "other"),
        "frechet_distance": ("normalize", "t", "alpha"),
        "batch_covariance": ("squared", "eps", "solver", "precision", "t", "alpha", "other"),
        "gaussian_w2": ("eps", "solver", "precision", "t", "alpha"),
        "matrix_sqrt": ("normalize", "squared", "eps", "t", "alpha", "other"),
        "matrix_inv_sqrt": ("normalize", "squared", "eps", "t", "alpha", "other"),
        "losses": ("t", "alpha"),
        "streams": ("squared", "eps", "solver", "t", "alpha", "other"),
    }
    rest = ("normalize", "squared", "eps", "solver", "precision", "t", "alpha", "other")
    names = drop.get(case.function, rest)
    case = replace(case, **{name: getattr(plain, name) for name in names})
    if case.spectrum not in ("log_spaced", "noise", "clusters"):
        case = replace(case, depth=0)
    if case.function.startswith("matrix") or case.function == "gaussian_w2":
        case = replace(case, n=min(case.n, 120), m=min(case.m, 120), row_scales=0)
        if case.layout in ("same_row", "same_column"):  # no symmetric matrix
            case = replace(case, layout="rows")
    if case.function == "streams":
        case = replace(case, batch=())
    if case.function == "training":
        if case.layout.startswith("same"):  # of a leaf's gradient
            case = replace(case, layout="rows")
        case = replace(case, bad="")
    if len(case.batch) == 0:
        case = replace(case, bad="")
        if case.layout in ("same_problem", "batch_last"):
            case = replace(case, layout="rows")
    if case.layout == "same_problem" or case.batch.count(0) or case.batch == (1,):
        case = replace(case, bad="")  # no second problem that stays as it was
    if "subnormal" in case.traits and case.dtype == "float64":
        # 1/|z| of such rows is out of float64 itself, and with it the truth
        case = replace(case, traits=tuple(t for t in case.traits if t != "subnormal"))
    return case
