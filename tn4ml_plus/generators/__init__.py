"""Nonlinear tensor-network generators: a few cores that generate a large weight.

Everything here is an equinox module, so this room needs the extra ``generators``.
"""

try:
    import equinox  # noqa: F401
except ImportError as error:
    raise ImportError(
        "Generators are equinox modules: pip install 'tn4ml_plus[generators]'."
    ) from error

from ._base import ELU, GELU, Activation, Generator, Identity, PReLU, Rational, SiLU, Sine
from ._changing import Quantised, grow, load, quantise, save
from ._composite import BrickWallGenerator, GroupedGenerator
from ._compressed import Compressed, cached, compress, large_weights, n_bytes, n_parameters
from ._fitting import Fit, default_optimizer, fit, isometry
from ._generated_layers import Conv2d, GeneratedLayer, Linear, MultiheadAttention
from ._pipeline import CompressionPipeline, CompressionReport, Stage
from ._tensorisations import ChannelsApart, Modes, Paired, RowMajor, Tensorisation
from ._training import (
    SoftTargets,
    Trained,
    distill,
    evaluate,
    per_sample,
    predict,
    squared_distance,
    train,
)
from ._trees import ATTNGenerator, MERAGenerator, TreeGenerator, TTNGenerator, default_schedule

__all__ = [
    "ELU", "GELU", "ATTNGenerator", "Activation", "BrickWallGenerator", "ChannelsApart",
    "Compressed", "CompressionPipeline", "CompressionReport", "Conv2d", "Fit", "GeneratedLayer",
    "Generator", "GroupedGenerator", "Identity", "Linear", "MERAGenerator",
    "Modes", "MultiheadAttention", "PReLU", "Paired", "Quantised", "Rational", "RowMajor", "SiLU",
    "Sine", "SoftTargets", "Stage", "TTNGenerator", "Tensorisation", "Trained", "TreeGenerator",
    "cached", "compress", "default_optimizer", "default_schedule", "distill", "evaluate", "fit",
    "grow", "isometry", "large_weights", "load", "n_bytes", "n_parameters", "per_sample", "predict",
    "quantise", "save", "squared_distance", "train",
]  # fmt: skip
