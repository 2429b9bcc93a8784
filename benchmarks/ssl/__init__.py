"""Self-supervised training on real images, with nothing, L_U or W2 beside the method's own loss.

`python -m benchmarks.ssl` trains, fills the W2 paper's table, compares runs and searches weights;
docs/ssl.md says how. Imports point one way:

    __main__ -> table, search, compare -> train -> evaluate, step, checkpoint -> networks,
    augment, optim, parallel -> methods, config
"""
