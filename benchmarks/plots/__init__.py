"""Figures drawn from recorded rows alone: `make plots`."""
