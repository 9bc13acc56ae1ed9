"""Task families: the sources of few-shot tasks."""

from hpc_dmaml.tasks.arrays import Arrays
from hpc_dmaml.tasks.family import Act, Batch, Samples, Split, TaskBatch, TaskFamily, TaskSampler
from hpc_dmaml.tasks.glyphs import Glyphs
from hpc_dmaml.tasks.gymnasium_family import Gymnasium
from hpc_dmaml.tasks.harmonic import Harmonic
from hpc_dmaml.tasks.image_folder import ImageFolder
from hpc_dmaml.tasks.meta_world import MetaWorld
from hpc_dmaml.tasks.navigation import Court, Navigation
from hpc_dmaml.tasks.omniglot import Omniglot
from hpc_dmaml.tasks.sinusoid import Sinusoid

__all__ = [
    "Act",
    "Arrays",
    "Batch",
    "Court",
    "Glyphs",
    "Gymnasium",
    "Harmonic",
    "ImageFolder",
    "MetaWorld",
    "Navigation",
    "Omniglot",
    "Samples",
    "Sinusoid",
    "Split",
    "TaskBatch",
    "TaskFamily",
    "TaskSampler",
]
