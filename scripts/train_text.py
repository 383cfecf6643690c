"""Train a text classifier with an information bottleneck: fine-tune it whole, or train its head on a frozen backbone.

Fine-tune BERT on IMDB from the Hub, with the rate weighted by 0.001:

    python scripts/train_text.py --model google-bert/bert-base-uncased --dataset stanfordnlp/imdb \\
        --objective vub --beta 1e-3 --num_train_epochs 3 --output_dir outputs/vub-bert-imdb

Train the head alone, as the paper does (the features are computed once and cached):

    python scripts/train_text.py --model outputs/bert-imdb --dataset data/imdb --freeze_backbone \\
        --objective vib --beta 1e-2 --num_train_epochs 150 --learning_rate 1e-4 --lr_decay paper \\
        --per_device_train_batch_size 16 --output_dir outputs/vib-imdb

The best checkpoint (--load_best_model_at_end) is chosen on validation rows; the test rows are used once, at the end.
The same command resumes an interrupted run. `accelerate launch scripts/train_text.py ...` trains on many devices.
Options may also come from a file: `python scripts/train_text.py run.yaml --seed 1`.
"""

import json

from hf_vub.command_line import command, parse
from hf_vub.training.arguments import VUBTrainingArguments
from hf_vub.training.fine_tuning import DataArguments, ModelArguments, fine_tune


@command
def main() -> None:
    """Train, test, save, and describe the result in a model card."""
    model, data, training = parse(ModelArguments, DataArguments, VUBTrainingArguments)
    result = fine_tune("text", model, data, training)
    if training.should_save:
        print(json.dumps(result["metrics"], indent=2))


if __name__ == "__main__":
    main()
