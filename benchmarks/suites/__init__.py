"""What `pytest benchmarks` measures: groups of providers at one shape, by family."""

from benchmarks.suites.core import OURS, Group, Measured, is_ours
from benchmarks.suites.families import families

__all__ = ["OURS", "Group", "Measured", "families", "is_ours"]
