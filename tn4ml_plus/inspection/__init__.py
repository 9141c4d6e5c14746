"""Looking inside: measures and pictures of what networks have learned.

Parameters of `from_estimator` and `plot`, where a display does not say otherwise:

estimator : estimator, fitted, also inside a search or pipeline
X, y : (n_samples, n_features) and (n_samples,), samples and their labels
member : int, number of the network
shape : tuple of int, optional, (rows, columns) of the sites as pixels
ax, axes : Axes, or an array of them, optional, where to draw, by default in a new figure

>>> from sklearn.datasets import load_iris
>>> from tn4ml_plus import TNBornMachine, TNClassifier
>>> X, y = load_iris(return_X_y=True)
>>> clf = TNClassifier(trainer="sweep", n_members=1, random_state=0).fit(X, y)
>>> EntanglementDisplay.from_estimator(clf).entropies.shape
(3, 3)
>>> AttributionDisplay.from_estimator(clf, X).values.shape
(150, 4)
>>> InteractionDisplay.from_estimator(clf, X, max_order=2).shares.shape
(3, 4)
>>> sorted(TrainingDisplay.from_estimator(clf).history)
['bond_dims', 'loss', 'seconds', 'truncation']
>>> display = CompressionDisplay.from_estimator(clf, X, y, bond_dims=(1, 2))
>>> bool((display.n_parameters < display.original[0]).all())
True
>>> machine = TNBornMachine(random_state=0).fit(X)
>>> display = MutualInformationDisplay.from_estimator(machine)
>>> display.information.shape, display.names
((4, 4), ['x0', 'x1', 'x2', 'x3'])
>>> SampleDisplay.from_estimator(machine, 50, random_state=0).samples.shape
(50, 4)
"""

from ._attribution import attributions, interaction_orders
from ._canonical import compress
from ._entanglement import bond_entropies, fidelities, mutual_information, site_entropies
from ._layers import (
    CoarseGrainDisplay,
    LayerDisplay,
    Separability,
    activations,
    separability_by_layer,
)
from ._sample_displays import AttributionDisplay, InteractionDisplay, SampleDisplay
from ._state_displays import EntanglementDisplay, MutualInformationDisplay, NetworkDisplay
from ._training_displays import CompressionDisplay, TrainingDisplay

__all__ = [
    "AttributionDisplay", "CoarseGrainDisplay", "CompressionDisplay", "EntanglementDisplay",
    "InteractionDisplay", "LayerDisplay", "MutualInformationDisplay", "NetworkDisplay",
    "SampleDisplay", "Separability", "TrainingDisplay", "activations", "attributions",
    "bond_entropies", "compress", "fidelities", "interaction_orders", "mutual_information",
    "separability_by_layer", "site_entropies",
]  # fmt: skip
