"""Data sets that need no download: reviews written by a grammar, and scikit-learn's scanned digits.

The reviews are for trying things out, not for results. They have what makes sentiment hard for a bag of words: praise
inside a damning verdict, negation, concession, other people's opinions and expectations that were not met. The label
is the reviewer's overall verdict: it follows from how the clauses are put together, never from chance.
"""

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

GOOD, BAD = True, False

_PLAIN_SHARE = 0.45  # reviews whose clauses all agree: what a bag of words can get right


def _phrases(text: str) -> list[str]:
    return text.split("|")


_ADJECTIVES = {
    GOOD: _phrases(
        "superb|brilliant|moving|gripping|inventive|delightful|charming|memorable|heartfelt|hilarious|elegant|tender|"
        "dazzling|thrilling|captivating|wonderful|flawless|refreshing|poignant|clever|witty|stunning|lovely|rewarding|"
        "absorbing|masterful|touching|luminous|graceful|electrifying|hypnotic|sincere|exquisite|spellbinding|joyous|"
        "beautiful|excellent|engrossing|astonishing|magical|razor-sharp|triumphant|vivid|satisfying|impressive"
    ),
    BAD: _phrases(
        "dull|tedious|clumsy|lifeless|predictable|shallow|forgettable|dreadful|wooden|bland|muddled|tiresome|awful|"
        "contrived|pointless|grating|incoherent|stale|sloppy|hollow|lazy|insipid|laughable|painful|atrocious|bloated|"
        "uninspired|cheap|confusing|irritating|dreary|flat|ludicrous|pretentious|stilted|mediocre|terrible|ugly|vapid|"
        "amateurish|derivative|charmless|joyless|unbearable|disappointing"
    ),
}
_VERBS = {  # after "the film": after "the film does not"
    GOOD: _phrases(
        "comes alive:come alive|soars:soar|sparkles:sparkle|grips from start to finish:grip from start to finish|"
        "wins you over:win you over|casts a real spell:cast a real spell|earns every tear:earn every tear|"
        "lingers for days:linger for days|hits every note:hit every note|rewards your patience:reward your patience|"
        "touches the heart:touch the heart|takes flight:take flight|shines:shine|delivers:deliver|succeeds:succeed"
    ),
    BAD: _phrases(
        "falls flat:fall flat|drags on:drag on|outstays its welcome:outstay its welcome|collapses:collapse|"
        "wastes your time:waste your time|"
        "insults your intelligence:insult your intelligence|runs out of ideas:run out of ideas|"
        "grates on the nerves:grate on the nerves|misses the mark:miss the mark|loses its way:lose its way|"
        "fizzles out:fizzle out|bores you to tears:bore you to tears|stumbles:stumble|fails:fail|sinks:sink"
    ),
}
_ASPECTS = _phrases(
    "acting|screenplay|photography|score|ending|dialogue|pacing|humour|direction|editing|plot|chemistry|soundtrack|"
    "costume design|opening scene|final act|lead performance|camera work|premise|suspense|romance|animation|narration|"
    "supporting cast|production design|first hour|last reel|villain|central mystery|set design|dance number|car chase|"
    "love story|courtroom scene|voice work|prologue|sound mix|lighting|heroine|hero|flashback structure|twist"
)
_FILMS = _phrases("film|movie|picture|thriller|comedy|drama|western|musical|documentary|sequel|remake|fable")
_OTHERS = _phrases(
    "my sister|the critics|my neighbour|the poster|everyone at the festival|an old friend|the trailer|my colleagues|"
    "the man in the next seat|half of the internet|my father|the press notes|a famous columnist|the usual reviewers|"
    "our book club|my students|the radio show|two of my cousins"
)
_NEGATIONS = _phrases("not|never|hardly|far from|anything but|not in the least|by no means")
_INTENSIFIERS = _phrases("truly|really|utterly|quite|simply|rather|genuinely|remarkably|consistently|||||")
_HEDGES = _phrases(
    "to my mind|I must say|all in all|in the end|as far as I can tell|truth be told|for what it is worth|"
    "at least on a first viewing|in my opinion|on reflection"
)
_SETTINGS = _phrases(
    "shot in Lisbon over three weeks|set in a small harbour town|told over a single night|based on a true story|"
    "made for very little money|seen at a late screening|adapted from a short novel|filmed in black and white|"
    "set during a long winter|made by a team of newcomers|running for two hours and ten minutes|"
    "released without much noise|set on a night train|following three generations of one family|"
    "taking place in a single kitchen|shown here with subtitles"
)


class _Writer:
    """Clauses and reviews of a given verdict, drawn from one random stream."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.pick = rng, rng.choice

    def adjective(self, verdict: bool) -> str:
        return f"{self.pick(_INTENSIFIERS)} {self.pick(_ADJECTIVES[verdict])}".strip()

    def judgement(self, verdict: bool) -> str:
        """Return what can follow "is": an adjective, or the opposite one negated."""
        if self.rng.random() < 0.2:
            return f"{self.pick(_NEGATIONS)} {self.pick(_ADJECTIVES[not verdict])}"
        return self.adjective(verdict)

    def detail(self, verdict: bool) -> str:
        """Return a clause about one side of the film."""
        return f"the {self.pick(_ASPECTS)} is {self.judgement(verdict)}"

    def whole(self, verdict: bool) -> str:
        """Return a clause about the film as a whole."""
        film = f"the {self.pick(_FILMS)}"
        if self.rng.random() < 0.5:
            return f"{film} is {self.judgement(verdict)}"
        if self.rng.random() < 0.2:
            plain = self.pick(_VERBS[not verdict]).split(":")[1]
            return f"{film} {self.pick(['never manages to', 'does not', 'refuses to'])} {plain}"
        return f"{film} {self.pick(_VERBS[verdict]).split(':')[0]}"

    def clause(self, verdict: bool) -> str:
        return self.detail(verdict) if self.rng.random() < 0.5 else self.whole(verdict)

    def review(self, verdict: bool) -> str:
        """Return one sentence: nearly half speak with one voice, the others weigh one thing against another."""
        form = self.rng.choice(_PLAIN_FORMS if self.rng.random() < _PLAIN_SHARE else _MIXED_FORMS)
        text = form(self, verdict)
        if self.rng.random() < 0.3:
            text = f"{self.pick(_HEDGES)}, {text}"
        if len(text.split()) < 14:
            text = f"{self.pick(_SETTINGS)}, this is a {self.pick(_FILMS)} to talk about: {text}"
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
        return text[0].upper() + text[1:] + "."


def _agreement(writer: _Writer, verdict: bool) -> str:
    """Return another's opinion, which the reviewer shares or not."""
    opinion = writer.rng.random() < 0.5
    stance = ["and I agree", "and they are right", "and so do I"] if opinion == verdict else []
    stance = stance or ["and I disagree", "and they are wrong", "and I do not"]
    called = writer.pick(["think", "insist", "keep telling me", "are sure"])
    people = ["the critics", "my colleagues", "the usual reviewers", "my students", "my friends", "the fans"]
    return f"{writer.pick(people)} {called} that {writer.clause(opinion)}, {writer.pick(stance)}"


_PLAIN_FORMS: list[Callable[[_Writer, bool], str]] = [
    lambda w, v: f"{w.detail(v)}, {w.detail(v)}, and {w.whole(v)}",
    lambda w, v: f"{w.whole(v)}: {w.detail(v)} and {w.detail(v)}",
    lambda w, v: f"a {w.adjective(v)} {w.pick(_FILMS)} in which {w.detail(v)} and {w.detail(v)}",
    lambda w, v: f"{w.pick(_OTHERS)} said that {w.clause(v)}, and indeed {w.clause(v)}",
]
_MIXED_FORMS: list[Callable[[_Writer, bool], str]] = [
    lambda w, v: f"{w.pick(['although', 'even though', 'while'])} {w.clause(not v)}, {w.clause(v)}",
    lambda w, v: f"{w.clause(v)}, {w.pick(['although', 'even though', 'while'])} {w.clause(not v)}",
    lambda w, v: f"{w.detail(not v)}, but {w.clause(v)}",
    lambda w, v: f"{w.detail(not v)} and {w.detail(not v)}, yet {w.detail(v)} and, above all, {w.whole(v)}",
    lambda w, v: f"for all its {w.adjective(not v)} {w.pick(_ASPECTS)}, {w.whole(v)}",
    lambda w, v: f"despite its {w.adjective(not v)} {w.pick(_ASPECTS)}, {w.whole(v)}",
    lambda w, v: f"{w.pick(_OTHERS)} called it {w.adjective(not v)}, but {w.clause(v)}",
    lambda w, v: f"{w.pick(_OTHERS)} promised that {w.clause(not v)}; in fact {w.clause(v)}",
    lambda w, v: f"I expected a {w.adjective(not v)} {w.pick(_FILMS)} and got a {w.adjective(v)} one",
    lambda w, v: f"it could have been {w.adjective(not v)}; instead {w.whole(v)}",
    lambda w, v: (
        f"this is a {w.adjective(v)} {w.pick(_FILMS)}, whatever {w.pick(_OTHERS)} said about its "
        f"{w.adjective(not v)} {w.pick(_ASPECTS)}"
    ),
    _agreement,
]


def reviews(num_train: int = 8000, num_test: int = 1000, seed: int = 0) -> DatasetDict:
    """Generate balanced film reviews, no two alike, with the columns "text" and "label" ("neg", "pos").

    A logistic regression on word counts stays under 90% on them, since the same words occur in both verdicts; a reader
    of word order can label every one.

    Args:
        num_train, num_test: rows of the splits "train" and "test".
        seed: the same seed and sizes give the same reviews on every machine.

    Raises:
        ValueError: a size below 2.
    """
    if min(num_train, num_test) < 2:
        raise ValueError(f"num_train and num_test must be at least 2, but are {num_train} and {num_test}")
    rng = random.Random(seed)
    writer, seen = _Writer(rng), set()
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    splits = {}
    for split, rows in (("train", num_train), ("test", num_test)):
        labels = [row % 2 for row in range(rows)]
        rng.shuffle(labels)
        texts = []
        for label in labels:
            text = writer.review(bool(label))
            while text in seen:
                text = writer.review(bool(label))
            seen.add(text)
            texts.append(text)
        splits[split] = Dataset.from_dict({"text": texts, "label": labels}, features=features)
    return DatasetDict(splits)


def word_tokenizer(texts: Iterable[str], vocab_size: int = 4096, max_length: int = 512) -> "PreTrainedTokenizerFast":
    """Build a lower-casing WordPiece tokenizer like BERT's from the words of ``texts``.

    The most frequent words are one token each, as many as ``vocab_size`` leaves room for (ties by alphabet, so that the
    same texts always give the same ids; the trainers of `tokenizers` do not); any other word falls into pieces.

    Returns:
        A ``PreTrainedTokenizerFast`` with [PAD] = 0, [UNK], [CLS], [SEP] and [MASK], which AutoTokenizer loads again.

    Example:
        >>> word_tokenizer(["a film"]).tokenize("A FILM")
        ['a', 'film']
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Every character of lower-case ASCII at the start of a word and inside one: neither a typing error nor an attack
    # can make a word unknown.
    inside = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    alphabet = list(string.ascii_lowercase + string.digits + string.punctuation)
    smallest = len(special) + len(alphabet) + len(inside)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest}, for single characters, but is {vocab_size}")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    known = [*special, *alphabet, *inside]
    words = sorted(counts.keys() - set(known), key=lambda word: (-counts[word], word))
    vocabulary = {token: index for index, token in enumerate([*known, *words[: vocab_size - smallest]])}
    tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name[1:-1].lower()}_token": name for name in special},
    )


def small_transformer(folder: str | Path, texts: Iterable[str]) -> str:
    """Write the configuration of a transformer that one core trains in a minute, and a tokenizer made from ``texts``.

    Return the folder, which becomes a checkpoint without weights: two layers like BERT's, 64 wide, for 128 tokens.
    """
    from transformers import BertConfig

    tokenizer = word_tokenizer(texts)
    tokenizer.save_pretrained(folder)
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    return str(folder)


def digits(seed: int = 0, test_size: float = 0.2) -> DatasetDict:
    """Return scikit-learn's 1,797 scanned digits as 32 x 32 RGB images, with columns "image" and "label" ("0" to "9").

    The scans are 8 x 8 with 17 grey levels, enlarged with a bicubic filter; the split is stratified and drawn with
    ``seed``.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError('the digits come with scikit-learn: pip install "hf_vub[report]"') from error
    from PIL import Image as PillowImage

    scans, labels = load_digits(return_X_y=True)
    grey = (scans.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    rows = train_test_split(range(len(labels)), test_size=test_size, stratify=labels, random_state=seed)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    splits = {}
    for split, chosen in zip(("train", "test"), rows, strict=True):
        small = [PillowImage.fromarray(grey[row]) for row in chosen]
        images = [image.resize((32, 32), PillowImage.Resampling.BICUBIC).convert("RGB") for image in small]
        splits[split] = Dataset.from_dict({"image": images, "label": labels[chosen].tolist()}, features=features)
    return DatasetDict(splits)
