"""Weight generators: the weight of each worker's update in the combined update."""

from hpc_dmaml.weight_generators.arithmetic_mean import ArithmeticMean
from hpc_dmaml.weight_generators.generator import WeightGenerator, check, check_any_finite, worker_weights
from hpc_dmaml.weight_generators.geometric_median import GeometricMedian
from hpc_dmaml.weight_generators.gradient_norm import GradientNorm
from hpc_dmaml.weight_generators.loss_median import LossMedian
from hpc_dmaml.weight_generators.loss_moving_average import LossMovingAverage
from hpc_dmaml.weight_generators.loss_weighted import LossWeighted

__all__ = [
    "ArithmeticMean",
    "GeometricMedian",
    "GradientNorm",
    "LossMedian",
    "LossMovingAverage",
    "LossWeighted",
    "WeightGenerator",
    "check",
    "check_any_finite",
    "worker_weights",
]
