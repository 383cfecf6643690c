"""``beta="auto"``: choose the weight of the rate on validation rows before a head is trained."""

import shutil
from dataclasses import replace
from pathlib import Path

from ..model.configuration_vub import Objective
from ..model.modeling_vub import VUBPreTrainedModel
from ..runs.files import read_json
from ..runs.schema import SuggestionResult
from ..sweep.suggestion import suggest
from .arguments import AUTO, ModelArguments, VUBTrainingArguments
from .rows import FeatureRows
from .safeguards import WatchedTrainer

SUGGESTION_FILE = "suggestion.json"


def check_beta(model: ModelArguments) -> None:
    """Refuse a beta that is neither a number nor "auto", and "auto" where it cannot be chosen.

    Raises:
        ValueError: another word; an objective without a rate; or a backbone that trains, whose features would change.
    """
    if not isinstance(model.beta, str):
        return
    if model.beta != AUTO:
        raise ValueError(f"beta is {model.beta!r}; it must be a number or {AUTO!r}")
    if model.objective not in (Objective.VIB.value, Objective.VUB.value):
        raise ValueError(f"beta is 'auto', but the objective {model.objective!r} has no rate: use 'vib' or 'vub'")
    if not model.freeze_backbone:
        raise ValueError(
            "beta is 'auto', which compares heads on the features of a frozen backbone: set freeze_backbone, or choose "
            "a number"
        )


def choose_beta(
    trainer: WatchedTrainer, model: ModelArguments, training: VUBTrainingArguments, resuming: bool
) -> ModelArguments:
    """Return the options with the chosen beta, and set it in the trainer's model.

    Heads of the given objective, entropy weight, size, epochs and learning rate are trained with three seeds per beta
    and compared on the validation rows, see :func:`hf_vub.sweep.suggest`. ``suggestion.json`` in the output folder
    holds the comparison; a run that resumes takes its beta from there.

    Raises:
        ValueError: there are no validation rows, or no cached features to train on.
    """
    network, rows, held_out = trainer.model, trainer.train_dataset, trainer.eval_dataset
    assert isinstance(network, VUBPreTrainedModel)
    folder = Path(str(training.output_dir))
    if resuming and (folder / SUGGESTION_FILE).exists():
        result = SuggestionResult.from_json(read_json(folder / SUGGESTION_FILE), SUGGESTION_FILE)
    else:
        if not isinstance(rows, FeatureRows):
            raise ValueError("beta is 'auto', which needs cached features: leave augment and adversary out")
        if not isinstance(held_out, FeatureRows):
            raise ValueError("beta is 'auto', but there are no validation rows to choose it on: set validation above 0")
        result = suggest(
            rows.features,
            rows.labels,
            num_labels=network.config.num_labels,
            validation_features=held_out.features,
            validation_labels=held_out.labels,
            objectives=[model.objective],
            entropy_weights=[model.entropy_weight],
            epochs=max(1, round(training.num_train_epochs)),
            batch_size=training.per_device_train_batch_size,
            learning_rate=training.learning_rate,
            latent_size=model.latent_size,
            label_entropy=network.config.label_entropy,
            checkpoint_dir=folder / "_beta",  # processes that train together share their results there
            device=training.device,
        ).result
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            shutil.rmtree(folder / "_beta", ignore_errors=True)
            result.save(folder / SUGGESTION_FILE)
    network.config.beta = result.beta
    return replace(model, beta=result.beta)
