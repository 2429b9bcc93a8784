"""Peers, measurements, the demo and its small training run. The package never imports from here."""
