"""Fine-tuning of M3 models: joint training of the dense, sparse and multi-vector heads, with self-distillation."""

from importlib.util import find_spec

if missing := [name for name in ("torch", "transformers", "accelerate", "peft") if find_spec(name) is None]:
    msg = f'training needs {", ".join(missing)}: pip install "m3plugins[train]"'
    raise ImportError(msg)

from m3plugins.evaluation.dataset import DatasetError
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.callbacks import Drift, Probe, SparseCollapseAlarm
from m3plugins.training.checkpoint.manifest import CheckpointError
from m3plugins.training.data.batch import Batch, TokenBatch
from m3plugins.training.data.collator import M3Collator
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.data.examples import Example
from m3plugins.training.loss.joint import M3Loss, m3_loss
from m3plugins.training.loss.options import LossOptions, PerHead
from m3plugins.training.loss.representations import Representations, TokenVectors, TokenWeights
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.objective import DivergedError
from m3plugins.training.teachers.ensembles import FrozenEnsemble, LiveEnsemble, MovingAverage, NoisyEnsemble
from m3plugins.training.teachers.stored_scores import StoredScores
from m3plugins.training.teachers.teacher import Teacher
from m3plugins.training.trainer import SelfDistillationTrainer

__all__ = [
    "Batch",
    "CheckpointError",
    "DatasetError",
    "DivergedError",
    "Drift",
    "Example",
    "FrozenEnsemble",
    "LiveEnsemble",
    "LossOptions",
    "M3Collator",
    "M3Dataset",
    "M3Loss",
    "M3Model",
    "MovingAverage",
    "NoisyEnsemble",
    "PerHead",
    "Probe",
    "Representations",
    "SelfDistillationArguments",
    "SelfDistillationTrainer",
    "SparseCollapseAlarm",
    "StoredScores",
    "Teacher",
    "TokenBatch",
    "TokenVectors",
    "TokenWeights",
    "m3_loss",
]
