"""The stage of certificates: votes on noisy copies of reviews, against copies one at a time padded to the limit."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from hf_vub.certify import Smoothing
from hf_vub.certify.voters import Voter, as_head, make_voter
from hf_vub.compute.contexts import frozen
from hf_vub.data.noise import noisy_texts, parse_noise
from hf_vub.model.loading import LoadedClassifier
from hf_vub.runs.schema import BenchmarkEntry
from measuring import Bench, Comparison, flops_per_unit

NOISE = "delete:0.95"


def certificates(bench: Bench) -> Iterator[BenchmarkEntry]:
    """Compare the draws of `certify` on reviews with the naive loop, and check that both vote alike."""
    victim = bench.victim
    texts, _ = victim.spread(bench.size(4, 1))
    n, naive = bench.size(400, 20), bench.size(8, 2)
    noise = parse_noise(NOISE)

    def ours() -> float:
        voter, smoothing, draws = _voter(bench), Smoothing(noise, 20, n, 0.1), 0
        for row, text in enumerate(texts):
            tally = smoothing.tally(victim.stock.config.num_labels)
            voter.count(voter.prepare(text), row, smoothing, {"": tally})
            draws += tally.draws
        return float(draws)

    def one_at_a_time() -> float:
        for row, text in enumerate(texts):
            for copy in noisy_texts(text.split(), noise, naive, np.random.default_rng([0, row])):
                _vote(bench, copy)
        return float(naive * len(texts))

    with frozen(victim.stock):
        entry = bench.compare(
            Comparison(
                stage="certificates",
                name=f"certificates of {len(texts)} reviews under {NOISE}",
                against=f"one noisy copy at a time, tokenized and padded to {victim.max_length} tokens",
                unit="draw",
                ours=ours,
                alternative=one_at_a_time,
                targets={"cpu": 20.0, "cuda": 20.0} if victim.max_length >= 256 else {},
                flops=flops_per_unit(ours),
            )
        )
        yield replace(entry, same_outcomes=_same_votes(bench, texts[0], bench.size(40, 8)))


def _vote(bench: Bench, text: str) -> int:
    victim = bench.victim
    inputs = victim.tokenizer(
        text, padding="max_length", truncation=True, max_length=victim.max_length, return_tensors="pt"
    ).to(bench.device)
    with torch.no_grad():
        return int(victim.stock(**inputs).logits.argmax())


def _voter(bench: Bench) -> Voter:
    victim = bench.victim
    loaded = LoadedClassifier(victim.stock, victim.tokenizer, "stock")
    return make_voter(loaded, Smoothing(parse_noise(NOISE)), {"": as_head(None)}, 0, victim.max_length)[0]


def _same_votes(bench: Bench, text: str, copies: int) -> bool:
    """Return whether the copies of a review get the same votes one at a time as together."""
    voter = _voter(bench)
    words = voter.prepare(text)
    votes = voter.votes(voter.copies(words, 0)(copies), [""])[""]
    alone = noisy_texts(words, voter.noise, copies, np.random.default_rng([0, 0]))
    return bool(votes.tolist() == [_vote(bench, each) for each in alone])
