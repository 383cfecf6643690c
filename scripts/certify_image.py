"""Certify an image classifier: no perturbation of L2 norm r changes this decision, for as many images as possible.

Train under Gaussian noise, which a certificate needs, then certify:

    python scripts/train_image.py --model timm/resnet18.a1_in1k --dataset data/cifar10 --smoothing gaussian:0.25 \\
        --augment --num_train_epochs 30 --output_dir outputs/vub-gaussian
    python scripts/certify_image.py --model outputs/vub-gaussian --dataset data/cifar10 --n 10000 \\
        --output_dir outputs/vub-gaussian/certificate

A checkpoint stores the noise that it was trained under; --noise names another. The radius is an L2 norm of [0, 1]
pixels at the size that the image processor makes. What is written: result.json with the certified accuracy at each
radius, records.jsonl (one line per image) and run.json. The same command resumes a run that was killed, and ends with
the same result. docs/certify.md says what a certificate means, what it does not cover, and what it costs.
"""

from hf_vub.command_line import command, parse


@command
def main() -> None:
    """Parse, certify, print."""
    from hf_vub.certify.arguments import CertifyImageArguments, certify_and_print

    (arguments,) = parse(CertifyImageArguments)
    certify_and_print(arguments)


if __name__ == "__main__":
    main()
