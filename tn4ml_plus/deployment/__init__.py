"""Fitted estimators where this package is not: StableHLO programs, and NumPy alone."""

from ._program import traced_members, write_program

__all__ = ["traced_members", "write_program"]
