"""Training of heads: pairs, splits by episode, losses, the loop, and the record of it all.

``train`` is the door: arrays in, a head and its record out. Losses and miners are those of
pytorch-metric-learning (``requirements/training.txt``); nothing here is needed to use a head.
"""

from __future__ import annotations

from vla_retrieval.training.data import Pairs
from vla_retrieval.training.labels import LabelRule
from vla_retrieval.training.settings import TrainingSettings
from vla_retrieval.training.train import Trained, train

__all__ = ["LabelRule", "Pairs", "Trained", "TrainingSettings", "train"]
