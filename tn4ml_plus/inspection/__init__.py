"""Looking inside: what networks have learned, as arrays and as pictures."""

from ._attribution import attributions
from ._compress import compress
from ._entanglement import bond_entropies, fidelities, mutual_information, site_entropies
from ._layers import Separability, activations, separability_by_layer
from ._of_layers import CoarseGrainDisplay, LayerDisplay
from ._of_samples import AttributionDisplay, InteractionDisplay, SampleDisplay
from ._of_states import EntanglementDisplay, MutualInformationDisplay, NetworkDisplay
from ._of_training import CompressionDisplay, TrainingDisplay
from ._orders import interaction_orders

__all__ = [
    "AttributionDisplay",
    "CoarseGrainDisplay",
    "CompressionDisplay",
    "EntanglementDisplay",
    "InteractionDisplay",
    "LayerDisplay",
    "MutualInformationDisplay",
    "NetworkDisplay",
    "SampleDisplay",
    "Separability",
    "TrainingDisplay",
    "activations",
    "attributions",
    "bond_entropies",
    "compress",
    "fidelities",
    "interaction_orders",
    "mutual_information",
    "separability_by_layer",
    "site_entropies",
]
