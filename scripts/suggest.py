"""Choose objective, beta and entropy weight for your data, and save the best head as a calibrated checkpoint.

    python scripts/suggest.py --model outputs/bert-imdb --dataset data/imdb --output_dir outputs/suggested
    python scripts/suggest.py --model user/encoder --dataset texts.csv --label_column topic --output_dir outputs/topics

The features of the frozen model are computed once. Heads of every setting are trained on them with several seeds and
compared on validation rows. Of all settings whose NLL is within one standard error of the lowest, the one with the
smallest rate is chosen: the strongest compression that costs nothing that can be measured. Test rows decide nothing.

The output folder gets the checkpoint, suggestion.json with every setting, and frontier.png.
"""

import logging

from hf_vub.command_line import command, parse
from hf_vub.training.suggesting import SuggestArguments, suggest_setting


@command
def main() -> None:
    """Parse, choose, save, print the frontier."""
    (arguments,) = parse(SuggestArguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    result = suggest_setting(arguments)
    print(f"{'':2}{'objective':10}{'beta':>7}{'weight':>8}{'rate':>9}{'accuracy':>10}{'NLL':>9}{'± SE':>8}{'ECE':>8}")
    for point in result.frontier:
        mark = "*" if all(point[name] == result[name] for name in ("objective", "beta", "entropy_weight")) else ""
        print(
            f"{mark:2}{point.objective:10}{point.beta:7g}{point.entropy_weight:8g}{point.rate.mean:9.3f}"
            f"{point.accuracy.mean:10.2%}{point.nll:9.4f}{point.nll_standard_error:8.4f}{point.ece.mean:8.4f}"
        )
    print(f"* chosen: the smallest rate with NLL at most {result.limit:.4f}, on {result.num_validation:,} rows")
    print(f"checkpoint: {arguments.output_dir}, temperature {result.calibration_temperature:.4g}")


if __name__ == "__main__":
    main()
