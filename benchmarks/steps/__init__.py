"""One training step of four self-supervised methods, without W2 and with W2 beside it.

It measures cost, not learning: the images are synthetic, every step starts from the same weights.
"""
