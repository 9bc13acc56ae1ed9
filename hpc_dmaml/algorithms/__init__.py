"""Meta-learning algorithms. To add one: one file here, and one row in its tests."""

from hpc_dmaml.algorithms.algorithm import Algorithm, check, whole_layout
from hpc_dmaml.algorithms.anil import ANIL, BOIL, check_head
from hpc_dmaml.algorithms.maml import MAML
from hpc_dmaml.algorithms.meta_sgd import LSLR, MetaSGD
from hpc_dmaml.algorithms.reptile import Reptile

__all__ = ["ANIL", "BOIL", "LSLR", "MAML", "Algorithm", "MetaSGD", "Reptile", "check", "check_head", "whole_layout"]
