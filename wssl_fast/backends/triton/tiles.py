"""What kernels share: float32-grade products on tensor cores, symmetric tiles, a grid barrier.

Products. A tensor core multiplies half-precision pieces exactly and adds them in float32; how many
pieces an operand is cut into is the precision of the product (MODE):

    exact      half-precision operands as they are: one product
    fp16x3     a = hi + lo/2048, both float16: hi hi + (hi lo + lo hi)/2048, 22 bits. For entries of
               at most about 1e4 in magnitude (Ootomo & Yokota, IJHPCA 2022, eq. 12-18)
    bf16x6     a = a0 + a1 + a2, bfloat16: the six products above 2^-24. Any float32 range
    bf16x4     all four products of a0 + a1: the exact product of operands rounded to 16 bits
    bf16x1     a0 b0: 8 bits
    float64    float64 tensor cores
    float64_fma  float64 without tensor cores (where tl.dot does not compile it)

Tensor cores truncate as they add. A block of the inner loop is added up there, and the blocks in
ordinary float32 arithmetic: `acc = block * one + acc` with `one` a runtime 1.0, because with a
literal the compiler would fold the addition back into the tensor core.
"""

import triton
import triton.language as tl

from wssl_fast.backends.triton.launch import interpreting

# The interpreter (Triton 3.6 to 3.9) multiplies the bit patterns of bfloat16, not its numbers, and
# truncates to it instead of rounding
INTERPRETED = tl.constexpr(interpreting())
LO = tl.constexpr(2048.0)  # 2^11: what float16 keeps of a float32 in its first piece
LARGEST = tl.constexpr(65504.0)  # of float16


@triton.jit
def split_fp16(x):
    """x float32 -> hi, lo float16 with x = hi + lo / LO to 22 bits; subnormals of hi are no loss.
    Entries that float16 does not hold become its largest; a NaN stays one."""
    x = tl.where(x > LARGEST, LARGEST, x)
    x = tl.where(x < -LARGEST, -LARGEST, x)
    hi = x.to(tl.float16)
    lo = ((x - hi.to(tl.float32)) * LO).to(tl.float16)
    return hi, lo


@triton.jit
def round_bf16(x):
    """x float32 to bfloat16, to nearest even."""
    if INTERPRETED:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(tl.bfloat16)


@triton.jit
def split_bf16(x):
    """x float32 -> three bfloat16 pieces with x = a0 + a1 + a2 to 24 bits."""
    a0 = round_bf16(x)
    rest = x - a0.to(tl.float32)
    a1 = round_bf16(rest)
    a2 = round_bf16(rest - a1.to(tl.float32))
    return a0, a1, a2


@triton.jit
def widen(x, one):
    """x as float64. A float64 tl.dot whose operand was loaded in half precision does not compile
    (Triton 3.6 and 3.7 look for the load to choose a layout); behind a branch it is not found."""
    if x.dtype == tl.float64 or x.dtype == tl.float32:
        return x.to(tl.float64)
    else:
        wide = tl.zeros(x.shape, tl.float64)
        if one > 0.0:
            wide = x.to(tl.float64)
        return wide


@triton.jit
def dot(a, b, acc):
    """acc + a b for half-precision a [M, K], b [K, N]; products exact, acc float32 [M, N]."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc)


@triton.jit
def accumulate(a, b, acc, low, one, MODE: tl.constexpr):
    """acc + low / LO += a b.  a [M, K], b [K, N]; acc, low [M, N] float32 (float64: low unused).

    exact: a, b half precision. fp16x3, bf16*: float32. float64*: float64. Only fp16x3 uses `low`.
    """
    zero = tl.zeros(acc.shape, tl.float32)
    if MODE == "exact":
        acc = tl.fma(dot(a, b, zero), one, acc)
    elif MODE == "float64":
        acc = tl.dot(a, b, acc, out_dtype=tl.float64)
    elif MODE == "float64_fma":
        acc += tl.sum(a[:, :, None] * b[None, :, :], axis=1)
    elif MODE == "fp16x3":
        a_hi, a_lo = split_fp16(a)
        b_hi, b_lo = split_fp16(b)
        low = dot(a_lo, b_hi, dot(a_hi, b_lo, low))
        acc = tl.fma(dot(a_hi, b_hi, zero), one, acc)
    else:
        a0, a1, a2 = split_bf16(a)
        b0, b1, b2 = split_bf16(b)
        block = zero
        if MODE == "bf16x6":  # small terms first
            block = dot(a2, b0, dot(a0, b2, block))
        if MODE != "bf16x1":
            block = dot(a1, b0, dot(a0, b1, dot(a1, b1, block)))
        acc = tl.fma(dot(a0, b0, block), one, acc)
    return acc, low


@triton.jit
def total(acc, low, MODE: tl.constexpr):
    """The sum that `accumulate` carries in two parts."""
    if MODE == "fp16x3":
        acc = tl.fma(low, 1.0 / LO, acc)
    return acc


@triton.jit
def int64(x):
    """An index as int64: a loop variable is a tensor when compiled, an int when interpreted."""
    return tl.zeros((), tl.int64) + x


@triton.jit
def lower_tile(t):
    """(i, j), i >= j, of the t-th tile of a lower triangle counted by rows: t = i (i + 1)/2 + j."""
    t = tl.zeros((), tl.int32) + t
    i = ((tl.sqrt(8.0 * t.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > t, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= t, i + 1, i)
    return i, t - i * (i + 1) // 2


@triton.jit
def grid_barrier(counter, programs):
    """All `programs` of a cooperative launch wait for each other; what they stored is then visible.

    `counter` (int32) starts at a multiple of `programs` and counts arrivals: never reset between
    barriers, so nobody can overtake. bar.sync orders a program's stores before its release.
    """
    tl.debug_barrier()
    if programs > 1:
        arrived = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
        target = (arrived // programs + 1) * programs
        while tl.load(counter, volatile=True) < target:  # plain reads: nobody queues for the line
            pass
        # once, as a rule; an acquire whose result nobody used would be left out by the compiler
        while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < target:
            pass
        tl.debug_barrier()
