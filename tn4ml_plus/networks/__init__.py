"""Tensor networks with named inputs and outputs, all of them quimb TensorNetworks."""

from ._mps import MPS

__all__ = ["MPS"]
