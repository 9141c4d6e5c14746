"""Looking inside: what networks have learned, as arrays and as pictures."""

from ._attribution import attributions
from ._entanglement import bond_entropies, fidelities, mutual_information, site_entropies
from ._layers import Separability, activations, separability_by_layer
from ._orders import interaction_orders

__all__ = [
    "Separability",
    "activations",
    "attributions",
    "bond_entropies",
    "fidelities",
    "interaction_orders",
    "mutual_information",
    "separability_by_layer",
    "site_entropies",
]
