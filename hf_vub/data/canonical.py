"""A tokenizer that reads look-alike letters as the letters they look like, and no invisible characters.

The rules are steps of the tokenizer's own normalizer, so ``tokenizer.json`` holds them: pipelines, attacks,
certificates and code without this package read text through them.
"""

from tokenizers import Regex, Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase

LOOK_ALIKES = {
    **{"a": "аɑα", "b": "Ьƅ", "c": "сϲςᴄ", "d": "ԁɗ", "e": "еҽ", "f": "ƒ", "g": "ɡց", "h": "һհ", "i": "іıɩι"},
    **{
        "j": "јϳ",
        "k": "ĸκ",
        "l": "ӏ",
        "m": "ⅿ",
        "n": "ոռ",
        "o": "оοօ",
        "p": "рρ",
        "q": "ԛզ",
        "r": "ⲅгᴦ",
        "s": "ѕꜱ",
        "t": "τ",
    },
    **{"u": "սʋυ", "v": "ѵνᴠ", "w": "ԝᴡ", "x": "х×", "y": "уүγ", "z": "ᴢ"},
    **{"A": "АΑ", "B": "ВΒ", "C": "СϹ", "E": "ЕΕ", "H": "НΗ", "I": "ІΙӀ", "J": "Ј", "K": "КΚ", "M": "МΜ", "N": "Ν"},
    **{"O": "ОΟՕ", "P": "РΡ", "Q": "Ԛ", "S": "ЅՏ", "T": "ТΤ", "V": "Ѵ", "W": "Ԝ", "X": "ХΧ", "Y": "УΥҮ", "Z": "Ζ"},
    **{"-": "˗‐‑‒–—−", "'": "´‘’ʼ", '"': "“”"},
}
"""Letters and marks, and those of other scripts that are drawn like them (Unicode Technical Standard 39, in part)."""

INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff"
"""Characters without a shape, as a regular expression's set: soft hyphens, joiners, and marks of direction."""


def fold_unicode(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer fold Unicode before everything else, and save that with it.

    Compatible forms become plain ones (NFKC: full-width and mathematical letters, ligatures), `INVISIBLE` characters
    are dropped, and `LOOK_ALIKES` become the letters that they look like. Text in plain English letters keeps its
    tokens, but for typographic quotes and dashes. Words of Cyrillic or Greek text change, so this is for text in Latin
    letters. What has no look-alike in the table, and text whose order marks of direction change, is not repaired.

    Args:
        tokenizer: a fast one, changed in place; one that folds already stays as it is.

    Raises:
        ValueError: the tokenizer is not a fast one.

    Example:
        >>> fold_unicode(tokenizer)  # doctest: +SKIP
        >>> tokenizer.tokenize("a gооd fi\u200blm") == tokenizer.tokenize("a good film")  # doctest: +SKIP
        True
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(f"fold_unicode needs a fast tokenizer, and {type(tokenizer).__name__} is not one")
    present = backend.normalizer
    if present is not None and present.normalize_str("о\u200b") == "o":
        return
    steps: list[normalizers.Normalizer] = [normalizers.NFKC(), normalizers.Replace(Regex(f"[{INVISIBLE}]"), "")]
    steps += [normalizers.Replace(Regex(f"[{alike}]"), plain) for plain, alike in LOOK_ALIKES.items()]
    backend.normalizer = normalizers.Sequence([*steps, *([] if present is None else [present])])
