"""Certify a text classifier: no edit of any r words changes this decision, for as many texts as possible.

Train under random deletion, which a certificate needs, then certify, on two CPU cores or on several devices:

    python scripts/train_text.py --model google-bert/bert-base-uncased --dataset stanfordnlp/imdb \\
        --smoothing delete:0.95 --num_train_epochs 2 --output_dir outputs/vub-delete
    python scripts/certify_text.py --model outputs/vub-delete --dataset stanfordnlp/imdb \\
        --output_dir outputs/vub-delete/certificate
    accelerate launch scripts/certify_text.py --model outputs/vub-delete --dataset imdb --output_dir runs/certificate

A checkpoint stores the noise that it was trained under; --noise names another. delete:P certifies insertions, deletions
and substitutions of words; mask:SHARE certifies substitutions alone. What is written: result.json with the certified
accuracy at each number of edits, records.jsonl (one line per text) and run.json. The same command resumes a run that
was killed, and ends with the same result. In a subfolder of the checkpoint, the model card shows the certificate.
docs/certify.md says what a certificate means, what it does not cover, and what it costs.
"""

from hf_vub.command_line import command, parse


@command
def main() -> None:
    """Parse, certify, print."""
    from hf_vub.certify.arguments import CertifyTextArguments, certify_and_print

    (arguments,) = parse(CertifyTextArguments)
    certify_and_print(arguments)


if __name__ == "__main__":
    main()
