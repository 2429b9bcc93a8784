"""Triton kernels: one file an algorithm, each beginning with what it computes.

    tiles.py           what kernels share: split products, symmetric tiles, the grid-wide barrier
    gram.py            z z^T of raw rows, lower tiles, split over columns
    statistics.py      norms and mean of the rows
    covariance.py      (D z - mu)^T (D z - mu), scaled and centred while loading
    newton_schulz.py   root, value and weights of W2 in one persistent launch, or one launch a phase
    newton_schulz_small.py  the same for k <= 128, a program a problem
    chain.py           what each phase of newton_schulz multiplies;  matrices.py  its matrices
    w2_phases.py       what surrounds it: from parts of a Gram to R_0, from Q to W
    w2.py              both formulations of W2, from launches of the above
    w2_backward.py     W z, and P = Xc S^(-1/2) with its row-wise epilogue
    uniformity.py      L_U by blocks;  uniformity_rows.py  its row-wise kernels and backward
    workspace.py       memory between the product of the rows and the weights
    dispatch.py        target and tile by architecture and size, from table.json
    launch.py          the one place that launches; counts and records for tests

They compute into given outputs and know nothing of autograd. Nothing here synchronises the host.
"""
