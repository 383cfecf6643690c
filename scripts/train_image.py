"""Train an image classifier with an information bottleneck: fine-tune it whole, or train its head on a frozen backbone.

Train a timm model from scratch, the stock classifier first:

    python scripts/train_image.py --model timm/resnet18 --from_scratch --image_size 64 --dataset data/cifar10 \\
        --objective vanilla --augment --num_train_epochs 10 --learning_rate 2e-3 --lr_scheduler_type cosine \\
        --per_device_train_batch_size 128 --output_dir outputs/resnet18-cifar10

Then a bottleneck on its frozen features, as the paper does:

    python scripts/train_image.py --model outputs/resnet18-cifar10 --dataset data/cifar10 --freeze_backbone \\
        --objective vub --beta 1e-3 --num_train_epochs 100 --learning_rate 1e-4 --lr_decay paper \\
        --per_device_train_batch_size 32 --output_dir outputs/vub-cifar10

The best checkpoint (--load_best_model_at_end) is chosen on validation rows; the test rows are used once, at the end.
The same command resumes an interrupted run. `accelerate launch scripts/train_image.py ...` trains on many devices.
Options may also come from a file: `python scripts/train_image.py run.yaml --seed 1`.
"""

import json

from hf_vub.command_line import command, parse
from hf_vub.training.arguments import VUBTrainingArguments
from hf_vub.training.fine_tuning import DataArguments, ModelArguments, fine_tune


@command
def main() -> None:
    """Train, test, save, and describe the result in a model card."""
    model, data, training = parse(ModelArguments, DataArguments, VUBTrainingArguments)
    result = fine_tune("image", model, data, training)
    if training.should_save:
        print(json.dumps(result["metrics"], indent=2))


if __name__ == "__main__":
    main()
