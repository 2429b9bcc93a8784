"""What surrounds Newton-Schulz in newton_schulz.py: from parts of C to R_0, from Q to W.

Gram formulation (k = n): C = X X^T, A = H C H / n + lift 11^T/n + ridge I.
Covariance formulation (k = m): C = S, A = S + ridge I.
Mathematics and thresholds: backends/eager/w2_gram.py, w2_covariance.py, roots.py.
"""

import triton
import triton.language as tl

from wssl_fast.backends.triton.matrices import load_matrix, store_matrix

# fields of `scalars`
MEAN_SQUARE = tl.constexpr(0)  # |mu|^2
LIFT = tl.constexpr(1)
RIDGE = tl.constexpr(2)
INVERSE = tl.constexpr(3)  # R_0 = INVERSE A
SHIFT = tl.constexpr(4)  # what step 0 adds to the diagonal of R_0
NOISE = tl.constexpr(5)  # uncertainty of the eigenvalues of A
TARGET = tl.constexpr(6)  # unit / sqrt m
OFFSET = tl.constexpr(7)  # |mu|^2 as a share of the mean square
SAFE = tl.constexpr(8)  # 1 where float32 holds the squares of all norms
UNIT = tl.constexpr(9)  # common factor of raw rows
TRACE = tl.constexpr(10)  # tr A
SIZE = tl.constexpr(11)  # k
COEFFICIENT = tl.constexpr(12)  # -2/(k sqrt m)
ORIGIN = tl.constexpr(13)  # C_00, about which a collapsed C has all its digits
FIELDS = tl.constexpr(16)

# rows of `vectors`, kp each
MEANS = tl.constexpr(0)  # r - ORIGIN, r = X mu
SQUARES = tl.constexpr(1)  # row sums of (C - ORIGIN)^2; read in `scalars_phase` alone, then
Y_DIAGONAL = tl.constexpr(1)  # the diagonal of A^(1/2)
DIAGONAL = tl.constexpr(2)  # of C
Q_MEANS = tl.constexpr(3)
VECTORS = tl.constexpr(4)

# rows of `partial`
DISTANCE = tl.constexpr(0)  # |Y - target I|_F^2
Y_SQUARE = tl.constexpr(1)  # |Y|_F^2
Q_SQUARE = tl.constexpr(2)  # |Q Q|_F^2
PARTIALS = tl.constexpr(4)


@triton.jit
def _inverse_norm(diagonal, row, kp, splits, mask):
    """1/|z_i| from the parts of a diagonal, float64; 0 for a zero row."""
    square = tl.zeros(row.shape, tl.float64)
    for s in range(splits):
        square += tl.load(diagonal + s * kp + row, mask=mask, other=0.0)
    return tl.where(square == 0.0, 0.0, 1.0 / tl.sqrt(tl.where(square == 0.0, 1.0, square)))


@triton.jit
def rows_phase(
    slots, out, diagonal, vectors, scalars, scale, row0, k, kp, splits, factor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FROM_DIAGONAL: tl.constexpr,
    WRITE_SCALE: tl.constexpr,
):  # fmt: skip
    """Rows row0.. of C = factor D (sum of parts) D, with their means, squares and diagonal.

    D comes from the diagonal of the parts if FROM_DIAGONAL, else it is I. Means and squares are
    those of C - ORIGIN: near a collapse C is a constant and a speck, and sums over the speck keep
    its digits.
    """
    area = tl.cast(kp, tl.int64) * kp
    row = row0 + tl.arange(0, ROWS)
    left = tl.full((ROWS,), 1.0, tl.float64)
    if FROM_DIAGONAL:
        left = _inverse_norm(diagonal, row, kp, splits, row < k)
    if WRITE_SCALE:
        tl.store(scale + row, left, mask=row < k)
    sums = tl.zeros((ROWS,), tl.float64)
    squares = tl.zeros((ROWS,), tl.float64)
    own = tl.zeros((ROWS,), tl.float64)
    origin = tl.zeros((), tl.float64)
    for s in range(splits):
        origin += tl.load(diagonal + s * kp)
    origin *= factor
    if FROM_DIAGONAL:
        origin = tl.where(origin == 0.0, 0.0, 1.0)
    tl.store(scalars + ORIGIN, origin)  # by every program the same
    for start in range(0, kp, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row < kp)[:, None] & (column < kp)[None, :]
        offset = row.to(tl.int64)[:, None] * kp + column[None, :]
        c = tl.zeros((ROWS, COLUMNS), tl.float64)
        for s in range(splits):
            c += tl.load(slots + s * area + offset, mask=inside, other=0.0).to(tl.float64)
        c *= factor
        if FROM_DIAGONAL:
            right = _inverse_norm(diagonal, column, kp, splits, column < k)
            c *= left[:, None] * right[None, :]  # symmetric bit by bit
        c = c.to(slots.dtype.element_ty)
        tl.store(slots + out * area + offset, c, mask=inside)
        c = c.to(tl.float64)  # what was stored, so that sums and entries agree
        own += tl.sum(tl.where(row[:, None] == column[None, :], c, 0.0), axis=1)
        c = tl.where((column < k)[None, :], c - origin, 0.0)
        sums += tl.sum(c, axis=1)
        squares += tl.sum(c * c, axis=1)
    tl.store(vectors + MEANS * kp + row, sums / k, mask=row < kp)
    tl.store(vectors + SQUARES * kp + row, squares, mask=row < kp)
    tl.store(vectors + DIAGONAL * kp + row, own, mask=row < kp)


@triton.jit
def scalars_phase(
    vectors, scalars, scale, mean, m, k, kp, eps_hi, eps_lo,
    COLUMNS: tl.constexpr, COVARIANCE: tl.constexpr, NORMALIZE: tl.constexpr,
    FROM_DIAGONAL: tl.constexpr, EPS: tl.constexpr, NOISE_UNITS: tl.constexpr,
    SHIFT_UNITS: tl.constexpr, ROW_UNIT: tl.constexpr,
):  # fmt: skip
    """The numbers that the phases of one problem share. EPS: unit of rounding of C; NOISE_UNITS,
    SHIFT_UNITS: what its eigenvalues are uncertain by, and what keeps them positive, in EPS |.|_F.
    """
    lane = tl.arange(0, COLUMNS)
    zero = tl.zeros((), tl.float64)
    sums, means_square, squares, trace = zero, zero, zero, zero
    safe = tl.full((), 1, tl.int32)
    for start in range(0, k, COLUMNS):
        at = start + lane
        real = at < k
        r = tl.load(vectors + MEANS * kp + at, mask=real, other=0.0, cache_modifier=".cg")
        own = tl.load(vectors + DIAGONAL * kp + at, mask=real, other=0.0, cache_modifier=".cg")
        square = tl.load(vectors + SQUARES * kp + at, mask=real, other=0.0, cache_modifier=".cg")
        sums += tl.sum(r)
        means_square += tl.sum(r * r)
        squares += tl.sum(square)
        trace += tl.sum(own)
        if FROM_DIAGONAL:  # a zero row too: float64 knows it from an underflow
            d = tl.load(scale + at, mask=real, other=1.0, cache_modifier=".cg")
            safe = tl.minimum(safe, tl.min(((d >= 1e-12) & (d <= 1e12)).to(tl.int32)))
    origin = tl.load(scalars + ORIGIN, cache_modifier=".cg")
    mean_square = origin + sums / k
    # |H C H|_F^2 = |H (C - ORIGIN) H|_F^2: a difference, about lambda_max / |mu|^2 of its terms,
    # with digits where lambda_max has them; from |C|_F^2 it would have half of those
    spread = squares - 2.0 * k * means_square + sums * sums
    squares += k * origin * (2.0 * sums + k * origin)
    unit = zero + 1.0
    if not NORMALIZE:
        unit = tl.load(scale, cache_modifier=".cg")
    ridge = (zero + eps_hi + eps_lo) * unit * unit
    noise = NOISE_UNITS * EPS * tl.sqrt(squares)
    lift = zero
    if COVARIANCE:
        mean_square = zero
        for start in range(0, m, COLUMNS):
            mu = tl.load(mean + start + lane, mask=start + lane < m, other=0.0)
            mean_square += tl.sum(mu * mu)
        noise = tl.maximum(noise, ROW_UNIT * ROW_UNIT * mean_square)
        norm = tl.sqrt(squares)
        offset = zero  # rows were centred before they were multiplied
    else:
        offset = mean_square / (trace / k)
        if not NORMALIZE:
            largest = trace  # of squared norms, at least their maximum
            safe = tl.minimum(safe, ((largest >= 1e-24) & (largest <= 1e24)).to(tl.int32))
        noise /= k
        trace = trace / k - mean_square  # of H C H / k
        # the null vector of a centred Gram, 1/sqrt k, is lifted to an ordinary eigenvalue
        lift = tl.maximum(trace / k, 8.0 * noise)
        norm = tl.sqrt(tl.maximum(spread, 0.0) / k / k + lift * lift)
        # r, r_i + r_j, less |mu|^2 + lift, from C: half a unit of rounding each, alike in all rows
        norm += 2.0 * EPS * mean_square
    norm += ridge * tl.sqrt(zero + k)
    shift = tl.maximum(SHIFT_UNITS * EPS * norm, noise - 2.0 * EPS * norm)
    inverse = tl.where(norm == 0.0, 0.0, 1.0 / (norm + shift))
    tl.store(scalars + MEAN_SQUARE, mean_square)
    tl.store(scalars + LIFT, lift)
    tl.store(scalars + RIDGE, ridge)
    tl.store(scalars + INVERSE, inverse)
    tl.store(scalars + SHIFT, shift * inverse)
    tl.store(scalars + NOISE, noise)
    root = tl.sqrt(zero + m)
    tl.store(scalars + TARGET, unit / root)
    tl.store(scalars + COEFFICIENT, -2.0 / (k * root))
    tl.store(scalars + SIZE, zero + k)
    tl.store(scalars + OFFSET, offset)
    tl.store(scalars + SAFE, safe.to(tl.float64))
    tl.store(scalars + UNIT, unit)
    tl.store(scalars + TRACE, trace + lift + ridge * k)


@triton.jit
def start_phase(
    slots, planes, source, vectors, scalars, row0, k, kp,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, COVARIANCE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows row0.. of R_0 = INVERSE A, from C in slot `source` to slot 0. Symmetric bit by bit: an
    entry and its mirror image are the same sums of the same numbers."""
    area = tl.cast(kp, tl.int64) * kp
    row = row0 + tl.arange(0, ROWS)
    inverse = tl.load(scalars + INVERSE, cache_modifier=".cg")
    ridge = tl.load(scalars + RIDGE, cache_modifier=".cg") * inverse
    if not COVARIANCE:
        inverse /= tl.load(scalars + SIZE, cache_modifier=".cg")
        means = tl.load(scalars + MEAN_SQUARE, cache_modifier=".cg")
        means += tl.load(scalars + LIFT, cache_modifier=".cg")
        means -= 2.0 * tl.load(scalars + ORIGIN, cache_modifier=".cg")
        mask = row < k
        r_i = tl.load(vectors + MEANS * kp + row, mask=mask, other=0.0, cache_modifier=".cg")
    for start in range(0, kp, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row < kp)[:, None] & (column < kp)[None, :]
        offset = row.to(tl.int64)[:, None] * kp + column[None, :]
        at = slots + source * area + offset
        a = tl.load(at, mask=inside, other=0.0, cache_modifier=".cg")
        if not COVARIANCE:
            at = vectors + MEANS * kp + column
            r_j = tl.load(at, mask=column < k, other=0.0, cache_modifier=".cg")
            a -= ((r_i[:, None] + r_j[None, :]) - means).to(a.dtype)
        a *= inverse.to(a.dtype)
        a += tl.where(row[:, None] == column[None, :], ridge.to(a.dtype), 0.0)
        a = tl.where((row < k)[:, None] & (column < k)[None, :], a, 0.0)
        store_matrix(planes, tl.cast(0, tl.int64), offset, a, kp, inside, WIDE)


@triton.jit
def average_phase(
    planes, source, out, vectors, scalars, row0, k, kp,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows row0.. of (Q + Q^T)/2 from one slot to another, and their means in A^(-1/2)."""
    row = row0 + tl.arange(0, ROWS)
    sums = tl.zeros((ROWS,), tl.float64)
    for start in range(0, kp, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row < kp)[:, None] & (column < kp)[None, :]
        here = row.to(tl.int64)[:, None] * kp + column[None, :]
        there = column.to(tl.int64)[None, :] * kp + row[:, None]
        q = load_matrix(planes, source, here, kp, inside, WIDE)
        q = 0.5 * (q + load_matrix(planes, source, there, kp, inside, WIDE))
        store_matrix(planes, out, here, q, kp, inside, WIDE)
        real = (row < k)[:, None] & (column < k)[None, :]
        sums += tl.sum(tl.where(real, q, 0.0), axis=1).to(tl.float64)
    factor = tl.sqrt(tl.load(scalars + INVERSE, cache_modifier=".cg"))
    factor /= tl.load(scalars + SIZE, cache_modifier=".cg")
    tl.store(vectors + Q_MEANS * kp + row, sums * factor, mask=row < kp)


@triton.jit
def weights_phase(
    planes, slot, vectors, scalars, weights, row0, k, kp,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, COVARIANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows row0.. of the weights: A^(-1/2) in the covariance formulation, else

    W = -2/(k sqrt m) (B - diag d), B = H A^(-1/2) H, d_i = <P_i, x_i> = k (G^(1/2))_ii + (B r)_i

    on unit rows, and 2/(k unit) I - 2/(k sqrt m) B on raw ones. r is taken about its mean, which is
    nothing to B.
    """
    row = row0 + tl.arange(0, ROWS)
    factor = tl.sqrt(tl.load(scalars + INVERSE, cache_modifier=".cg"))
    coefficient = tl.load(scalars + COEFFICIENT, cache_modifier=".cg")
    size = tl.load(scalars + SIZE, cache_modifier=".cg")
    q_mean = tl.zeros((), tl.float64)
    r_mean = tl.zeros((), tl.float64)
    if not COVARIANCE:
        r_mean += tl.load(scalars + MEAN_SQUARE, cache_modifier=".cg")
        r_mean -= tl.load(scalars + ORIGIN, cache_modifier=".cg")
        q_i = tl.load(vectors + Q_MEANS * kp + row, mask=row < k, other=0.0, cache_modifier=".cg")
        for start in range(0, k, COLUMNS):
            at = start + tl.arange(0, COLUMNS)
            q = tl.load(vectors + Q_MEANS * kp + at, mask=at < k, other=0.0, cache_modifier=".cg")
            q_mean += tl.sum(q)
        q_mean /= size
    inner = tl.zeros((ROWS,), tl.float64)
    for start in range(0, k, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        real = (row < k)[:, None] & (column < k)[None, :]
        offset = row.to(tl.int64)[:, None] * kp + column[None, :]
        a = load_matrix(planes, slot, offset, kp, real, WIDE).to(tl.float64) * factor
        if not COVARIANCE:
            at, live = vectors + column, column < k
            q_j = tl.load(at + Q_MEANS * kp, mask=live, other=0.0, cache_modifier=".cg")
            r_j = tl.load(at + MEANS * kp, mask=live, other=0.0, cache_modifier=".cg")
            a = a - q_i[:, None] - (q_j - q_mean)[None, :]
            inner += tl.sum(tl.where(real, a * (r_j - r_mean)[None, :], 0.0), axis=1)
            a *= coefficient
        out = weights + row.to(tl.int64)[:, None] * k + column[None, :]
        tl.store(out, a.to(weights.dtype.element_ty), mask=real)
    if not COVARIANCE:
        mask = row < k
        own = row.to(tl.int64) * kp + row
        a = load_matrix(planes, slot, own, kp, mask, WIDE).to(tl.float64) * factor
        ridge = tl.load(scalars + RIDGE, cache_modifier=".cg")
        lift = tl.load(scalars + LIFT, cache_modifier=".cg")
        unit = tl.load(scalars + UNIT, cache_modifier=".cg")
        at = vectors + Y_DIAGONAL * kp + row
        y = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg") - ridge * a
        centred = a - 2.0 * q_i + q_mean
        if NORMALIZE:  # the lifted vector is not in G^(1/2)
            lifted = tl.where(lift > 0.0, lift / tl.sqrt(lift + ridge), 0.0) / size
            diagonal = coefficient * (centred - size * (y - lifted) - inner)
        else:
            diagonal = coefficient * centred + 2.0 / (size * unit)
        tl.debug_barrier()  # after the row's own entries above
        out = weights + row.to(tl.int64) * k + row
        tl.store(out, diagonal.to(weights.dtype.element_ty), mask=mask)


@triton.jit
def _partial_sum(partial, tiles, COLUMNS: tl.constexpr):
    """Sum of one row of `partial`, in a fixed order."""
    lane = tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float64)
    for start in range(0, tiles, COLUMNS):
        at = start + lane
        total += tl.load(partial + at, mask=at < tiles, other=0.0, cache_modifier=".cg")
    return tl.sum(total)


@triton.jit
def value_phase(
    partial, scalars, value, deep, m, k, tiles, lower,
    COLUMNS: tl.constexpr, COVARIANCE: tl.constexpr, SQUARED: tl.constexpr,
    DECIDES: tl.constexpr, AUTO: tl.constexpr, ACCEPTED_ERROR: tl.constexpr,
):  # fmt: skip
    """W2 or W2^2 of one problem, and whether its digits are float64's (`deep`). DECIDES: they have
    to be, where norms leave float32, where |Y|_F^2 is not tr A (no root came out), and where the
    estimated error of the polar factor is too large and float32 need not (AUTO) or, with a large
    mean, cannot have the last word."""
    mean_square = tl.load(scalars + MEAN_SQUARE, cache_modifier=".cg")
    lift = tl.load(scalars + LIFT, cache_modifier=".cg")
    ridge = tl.load(scalars + RIDGE, cache_modifier=".cg")
    target = tl.load(scalars + TARGET, cache_modifier=".cg")
    unit = tl.load(scalars + UNIT, cache_modifier=".cg")
    distance = _partial_sum(partial + DISTANCE * tiles, tiles, COLUMNS)
    y_square = _partial_sum(partial + Y_SQUARE * tiles, tiles, COLUMNS)
    trace = tl.load(scalars + TRACE, cache_modifier=".cg")
    size = tl.load(scalars + SIZE, cache_modifier=".cg")
    # |Y|_F^2 is tr A, without the rounding of Q; near the optimum the difference would cancel
    rooted = tl.abs(y_square - trace) <= 1e-3 * trace
    distance += tl.where(rooted & (distance > size * target * target), trace - y_square, 0.0)
    missing = tl.sqrt(ridge) - target
    if not COVARIANCE:
        lifted = tl.sqrt(lift + ridge) - target
        distance += (m - k + 1) * missing * missing - lifted * lifted
    w2 = (mean_square + distance) / (unit * unit)
    w2 = tl.where(w2 < 0.0, 0.0, w2)
    w2 = tl.where(w2 < float("inf"), w2, float("nan"))
    if not SQUARED:
        w2 = tl.sqrt(w2)
    tl.store(value, w2.to(value.dtype.element_ty))
    if DECIDES:
        noise = tl.load(scalars + NOISE, cache_modifier=".cg")
        inverse = tl.load(scalars + INVERSE, cache_modifier=".cg")
        q_square = _partial_sum(partial + Q_SQUARE * tiles, lower, COLUMNS)
        error = 0.5 * noise * inverse * tl.sqrt(q_square / size)
        again = error > ACCEPTED_ERROR
        if not AUTO:
            again = again & (tl.load(scalars + OFFSET, cache_modifier=".cg") > 0.1)
        safe = tl.load(scalars + SAFE, cache_modifier=".cg") > 0.0
        tl.store(deep, (again | (rooted == 0) | (safe == 0)).to(tl.int8))
    else:
        tl.store(deep, 1)
