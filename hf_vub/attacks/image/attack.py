"""Attack image classifiers: one JSON per run, one record per example.

```python
from hf_vub.attacks import attack_image

result = attack_image("user/vub-resnet18-cifar10", "cifar10", "pgd_linf", epsilon=["2/255", "8/255"])
result.accuracy_under_attack
```

An output folder also holds ``images.safetensors``: originals and adversarial images of some examples, for figures.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ...compute.contexts import frozen
from ...data.record import TrainingRecord
from ...data.sample import open_sample
from ...embeddings.pixels import PixelModel
from ...runs.digests import weights_digest
from ...runs.schema import ImageAttackResult
from ..runner import Target, run
from .adversaries import make, parse_epsilons
from .adversary import Attack
from .examples import class_index, fit_sample
from .method import ImageMethod, Search
from .options import Job, read_job

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import ImageOptions


def attack_image(
    model: nn.Module | str | Path,
    dataset: object,
    attack: str | Attack = "pgd_linf",
    *,
    epsilon: float | str | Sequence[float | str] | None = None,
    target: int | str | None = None,
    steps: int | None = None,
    queries: int | None = None,
    save_images: int = 32,
    **options: "Unpack[ImageOptions]",
) -> ImageAttackResult:
    """Attack the images that a classifier gets right, and return how many it still gets right.

    Args:
        model: an image classifier (ours or a stock one), or the folder or Hub id of one.
        dataset: a name or path for ``hf_vub.data.splits.load_evaluation``, or a ``datasets.Dataset`` or stream with
            images and labels. A data set without splits is attacked whole; if ``model`` was trained on it, only its
            held-out rows are.
        attack: a name of ``hf_vub.attacks.image.adversaries.ATTACKS`` or an adversary with its own hyperparameters.
        epsilon: one or several budgets in [0, 1] pixels, as numbers or fractions such as "8/255"; None for the
            attack's own (8/255 for most). The top level of the result is the largest one's row of ``budgets``.
        target: class to reach, by name or index, for attacks that have a targeted form. Inputs of that class are left
            alone.
        steps: steps of the attack, replacing its default.
        queries: queries of Square in ``"autoattack"``, replacing its default.
        save_images: number of examples, evenly spread over the run, whose images are kept (where attacked).
        options: keywords that all attacks on images share:

            - ``processor`` (None): the image processor, or the folder or Hub id of one; None takes the one saved with
              ``model``. A module that was never saved then takes [0, 1] pixels as they are.
            - ``num_examples`` (500): how many images; None for all.
            - ``how`` ("stratified"): drawn with ``seed``, each class in its share; or "first".
            - ``seed`` (0): of the sample and of the attack.
            - ``noise`` ("mean"): the declared predictor, "mean", "sampled" or "averaged:k".
            - ``redraws`` (20): fresh draws over which each adversarial example of a random predictor is scored again.
            - ``batch_size`` (32): images attacked together; part of what the run is, as attacks may look at them all.
            - ``output_dir`` (None): folder for results, records and images; a run found there is resumed. None saves
              nothing. In a subfolder of the checkpoint that is attacked, the checkpoint's model card shows the result.
            - ``split`` (None): of a named data set; its test split by default.
            - ``image_column``, ``label_column`` (None): the usual names are recognised.
            - ``match_labels`` ("name"): match the classes of data and model by name (by number where one side has no
              names) or by "number".
            - ``column_names`` (None): of the columns of a CSV file without a header, in order or between commas.
            - ``config_name`` (None): configuration of a data set on the Hub.
            - ``revision`` (None): of ``model`` on the Hub.
            - ``trust_remote_code`` (False): run code that comes with ``model``.
            - ``device`` (None): where to compute; None leaves a module where it is and puts a loaded one on the
              accelerator.
            - ``progress`` (True): say which rows are attacked, and show a bar with the running success rate if stderr
              is a terminal.

    Returns:
        The result: ``clean_accuracy`` over all readable inputs, ``accuracy_under_attack``, ``attack_success_rate`` over
        the inputs attacked with its 95 % Wilson interval, ``l2_mean`` and ``l2_median`` over successes alone in [0, 1]
        pixels, one row of these per budget in ``budgets``; for a random predictor ``redraws``; ``skipped``, the reasons
        why inputs were skipped; ``data_rows``, which rows were attacked, and ``rows_seen_in_training``, how many of
        them the checkpoint was trained or selected on.

    Raises:
        ValueError: an argument is out of range, classes cannot be matched, or ``output_dir`` holds another run.
        ImportError: a package is missing; the sentence has the command that installs it.

    Example:
        >>> attack_image(model, dataset, "cw", target="soccer ball", num_examples=100).l2_mean  # doctest: +SKIP
    """
    job = read_job(model, dataset, options)
    name, adversary = make(attack, steps, queries)
    search = Search(name, adversary, parse_epsilons(adversary, epsilon), target, save_images)
    return _attack(job, search)


def _attack(job: Job, search: Search) -> ImageAttackResult:
    victim, options = job.victim, job.rows
    record = TrainingRecord.load(victim.model, victim.revision)
    sample = open_sample(options, "image", [record] if record is not None else [])
    network, processor, model_name = victim.load("image")
    with frozen(network):
        model = PixelModel(network, processor, noise=victim.noise)
        sample, shape = fit_sample(sample, model)
        goal = None if search.target is None else class_index(search.target, sample.class_names)
        method = ImageMethod(sample, shape, model, search, goal, victim)
        settings = {
            "kind": "image_attack",
            "dataset": sample.name,
            "attack": search.name,
            "attack_options": asdict(search.adversary),
            "epsilons": list(search.epsilons),
            "target": goal,
            "noise": victim.noise,
            "seed": options.seed,
            "how": options.how,
            "num_examples": len(sample),
            "batch_size": method.group_size,
            "redraws": method.redraws,
            "save_images": search.save_images,
            "weights": weights_digest(network),
            "rows": sample.digest(),
        }
        target = Target(model_name, {}, job.folder, record)
        return run(method, sample, {"": target}, settings, job.progress)[""]
