"""TextAttack recipes by name: attack one text with one classifier and return its record.

| name | adversary | reads |
|---|---|---|
| ``deepwordbug``, DeepWordBugGao2018 | typing errors in the words that matter most (Gao et al. 2018) | stopwords |
| ``pwws``, PWWSRen2019 | synonyms, by saliency and effect (Ren et al. 2019) | stopwords, WordNet |
| any other class name | of TextAttack, against classifiers | often word vectors or models from the network |
"""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runs.run_log import Record
from . import nltk_resources, textattack_compat
from .classifier import TextClassifier
from .guide import GuideAsVictim, Score
from .stronger import Variant, edit_at_random, swaps_words

if TYPE_CHECKING:
    from textattack import Attack
    from textattack.attack_results import AttackResult
    from textattack.goal_function_results import GoalFunctionResult
    from textattack.goal_functions import GoalFunction
    from textattack.shared import AttackedText

CANDIDATE_BYTES = 2**27
"""Memory for the candidates of a text that TextAttack remembers, in bytes; beyond it they are made again.

A candidate of a text of w words takes about 24 w + 2,000 bytes and its characters, and PWWS has some 10 candidates per
word and round: without a bound, memory grows with the square of the length.
"""

SHORT_NAMES = {"deepwordbug": "DeepWordBugGao2018", "pwws": "PWWSRen2019"}

# Downloads of other recipes when they are built or first used, for the sentence that says why one cannot run.
_FETCHES = {
    "A2TYoo2021": "counter-fitted word vectors, a sentence encoder and a part-of-speech tagger",
    "BAEGarg2019": "BERT and the Universal Sentence Encoder (tensorflow_hub)",
    "BERTAttackLi2020": "BERT and the Universal Sentence Encoder (tensorflow_hub)",
    "CLARE2020": "DistilRoBERTa and the Universal Sentence Encoder (tensorflow_hub)",
    "FasterGeneticAlgorithmJia2019": "counter-fitted word vectors and a language model",
    "GeneticAlgorithmAlzantot2018": "counter-fitted word vectors and a language model",
    "IGAWang2019": "counter-fitted word vectors",
    "Kuleshov2017": "counter-fitted word vectors, sentence vectors and GPT-2",
    "PSOZang2020": "HowNet",
    "TextBuggerLi2018": "counter-fitted word vectors and the Universal Sentence Encoder (tensorflow_hub)",
    "TextFoolerJin2019": "counter-fitted word vectors and the Universal Sentence Encoder (tensorflow_hub)",
}


def resolve_recipe(recipe: str) -> str:
    """Return the class name of a recipe, which may be given by its short name in any case.

    Raises:
        ValueError: TextAttack has no such recipe; the sentence names those it has.
    """
    name = SHORT_NAMES.get(str(recipe).lower(), str(recipe))
    if name in SHORT_NAMES.values():
        return name
    recipes = textattack_compat.load().attack_recipes
    base = recipes.AttackRecipe
    known = sorted(key for key, value in vars(recipes).items() if isinstance(value, type) and issubclass(value, base))
    known.remove("AttackRecipe")
    if name not in known:
        raise ValueError(f"recipe must be one of {', '.join([*SHORT_NAMES, *known])}, but is {recipe!r}")
    return name


class Searcher:
    """A recipe, built once and pointed at one classifier after the other.

    Args:
        recipe: class name of a TextAttack recipe.
        classifier: what it is built for.
        redraws: fresh draws over which each final text of a random predictor is scored again.
        query_budget: queries per text after which the attack gives up; None for no limit.
        max_words: longer texts are skipped.
        guided: texts are attacked with a guide, too.
        variant: turns the recipe into another search; None for the recipe as published.

    Raises:
        ValueError: the recipe does not attack classifiers, or it climbs no score that a guide could replace.
        nltk_resources.ResourceError: the recipe reads something that is not on this machine.
    """

    def __init__(
        self,
        recipe: str,
        classifier: TextClassifier,
        redraws: int = 20,
        query_budget: int | None = None,
        max_words: int = 4000,
        guided: bool = False,
        variant: Variant | None = None,
    ):
        self.recipe = recipe
        self.redraws = redraws
        self.max_words = max_words
        self._textattack = textattack_compat.load()
        self._search = _build(recipe, classifier)
        if variant is not None:
            self._search = variant(self._search)
        goal = self._search.goal_function
        if guided:
            self._refuse_other_scores(goal)
        self._guide: Score | None = None
        self._own_results = goal.get_results
        goal.get_results = self._search.search_method.get_goal_results = self._results
        goal.batch_size = 2**31  # all candidates at once: the classifier makes its own batches
        # TextAttack's cache keeps every candidate of a text alive and freezes one draw per text; ours goes by tokens.
        goal.use_cache = False
        self._query_budget = query_budget
        self._clear_transformations = self._search.clear_cache
        self._candidates = 0  # remembered by TextAttack
        self._room = 0  # candidates that may be remembered
        self._ahead: list[int] = []  # words whose substitutions are yet to be computed
        self._looks_ahead = False
        if self._search.use_transformation_cache:  # the candidates of a deterministic recipe serve every head
            self._search.clear_cache = goal.clear_cache
            method = self._search.search_method
            method.get_transformations = self._transformations
            weighted = getattr(method, "wir_method", "") == "weighted-saliency"
            self._looks_ahead = weighted and query_budget is None and not classifier.draws

    def clear(self) -> None:
        """Forget the candidates of the last text: heads attacked from here on are given another one."""
        self._clear_transformations()
        self._candidates = 0

    def attack(
        self,
        classifier: TextClassifier | GuideAsVictim,
        text: str,
        label: int,
        guide: Score | None = None,
        query_budget: int | None = None,
    ) -> Record:
        """Attack one text.

        Args:
            classifier: decides.
            text: to attack.
            label: its class.
            guide: the search climbs its score; None for the classifier's own.
            query_budget: queries of this text after which the attack gives up; None for the budget of all texts.

        Returns:
            Its record: ``status`` ("attacked", "misclassified" or "skipped: reason"), ``original_text`` and
            ``perturbed_text``, ``prediction`` and ``perturbed_prediction``, ``success``, ``queries``, ``words`` and
            ``words_perturbed``; for a random predictor ``redraws_wrong``, the fresh draws that misclassify the last
            text.

        Raises:
            nltk_resources.ResourceError: the recipe reads something that is not on this machine.
        """
        began = time.perf_counter()
        record: Record = {"status": "", "original_text": text, "perturbed_text": None}
        words = len(text.split())
        if words > self.max_words:
            record["status"] = f"skipped: more than max_words={self.max_words} words"
        elif not (example := self._textattack.shared.AttackedText(text)).words:
            record["status"] = "skipped: the text has no words"
        else:
            goal, budget = self._search.goal_function, query_budget or self._query_budget
            goal.model, self._guide, goal.query_budget = classifier, guide, math.inf if budget is None else budget
            record.update(self._attacked(classifier, example, label))
        return {**record, "seconds": time.perf_counter() - began}

    @property
    def swaps_words(self) -> bool:
        """Whether the recipe only replaces or deletes words."""
        return swaps_words(self._search)

    def edit_at_random(self, text: str, share: float, most: int | None = None) -> str:
        """Return a text after random edits of a share of its words; see `stronger.edit_at_random`."""
        edited = edit_at_random(self._search, self._textattack.shared.AttackedText(text), share, most)
        self.clear()
        return str(edited.tokenizer_input)

    def _attacked(self, classifier: TextClassifier | GuideAsVictim, example: "AttackedText", label: int) -> Record:
        try:
            self._room = max(1, CANDIDATE_BYTES // (24 * example.num_words + len(example.text) + 2000))
            if self._looks_ahead and int(classifier([example.tokenizer_input]).argmax()) == label:
                _, self._ahead = self._search.get_indices_to_order(example)
            return self._outcome(classifier, self._search.attack(example, label), label)
        except (ValueError, IndexError, KeyError, AssertionError, ArithmeticError) as error:
            # TextAttack fails on odd texts in many ways; each is a reason to skip one text.
            return {"status": f"skipped: {_one_line(error)}"}
        except (ImportError, OSError, LookupError) as error:
            problem = _lacking(self.recipe, error)
        finally:
            self._ahead = []
            self._search.clear_cache()
        raise nltk_resources.ResourceError(problem)

    def _transformations(
        self, text: "AttackedText", original_text: "AttackedText | None" = None, **options: object
    ) -> "list[AttackedText]":
        """Return TextAttack's candidates, remembered within bounds; a list is no key of its cache, a tuple is."""
        hashable = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        if self._ahead and hashable.get("indices_to_modify") == (self._ahead[0],):
            self._look_ahead(text)
        return self._candidates_of(text, original_text, hashable)

    def _candidates_of(
        self, text: "AttackedText", original_text: "AttackedText | None", options: Mapping[str, object]
    ) -> "list[AttackedText]":
        if self._candidates > self._room:
            self.clear()
        entries = len(self._search.transformation_cache)
        candidates: list[AttackedText] = self._search.get_transformations(text, original_text, **options)
        if len(self._search.transformation_cache) > entries:
            self._candidates += len(candidates)
        return candidates

    def _look_ahead(self, text: "AttackedText") -> None:
        """Compute in full batches what PWWS asks for word by word: a block of all single substitutions of a text."""
        texts: list[str] = []
        while self._ahead and len(texts) <= self._room // 2:
            found = self._candidates_of(text, text, {"indices_to_modify": (self._ahead.pop(0),)})
            texts += [candidate.tokenizer_input for candidate in found]
        if texts:
            self._search.goal_function.model(texts)
            if self._guide is not None:
                self._guide(texts)

    def _results(
        self, texts: "list[AttackedText]", check_skip: bool = False
    ) -> "tuple[list[GoalFunctionResult], bool]":
        """Return the victim's answers as TextAttack's goal function does, with the score of the guide if there is one.

        The score is 1 less the guide's probability of the label. A text that the victim misclassifies scores 1 more:
        the search ends there, also where the guide would not have chosen that text.
        """
        results, is_over = self._own_results(texts, check_skip=check_skip)
        if self._guide is not None and results:
            goal, won = self._search.goal_function, self._textattack.goal_function_results.GoalFunctionResultStatus
            scores = (
                1 - self._guide([text.tokenizer_input for text in texts[: len(results)]])[:, goal.ground_truth_output]
            )
            for result, score in zip(results, scores.tolist(), strict=True):
                result.score = score + (result.goal_status == won.SUCCEEDED)
        return results, is_over

    def _refuse_other_scores(self, goal: "GoalFunction") -> None:
        """Raise ValueError for a recipe that a guide's score says nothing to."""
        plain = type(goal) is self._textattack.goal_functions.UntargetedClassification
        if not plain or not self._search.is_black_box:
            reason = "follows gradients" if plain else "climbs no probability"
            raise ValueError(f"recipe {self.recipe} {reason}, so no guide can replace its score: leave out the guide")

    def _outcome(self, classifier: TextClassifier | GuideAsVictim, found: "AttackResult", label: int) -> Record:
        results = self._textattack.attack_results
        before, after = found.original_result, found.perturbed_result
        last = before.attacked_text
        outcome = {"status": "misclassified", "prediction": int(before.output), "words": last.num_words}
        if not isinstance(found, results.SkippedAttackResult):
            last = after.attacked_text
            outcome |= {
                "status": "attacked",
                "perturbed_text": last.tokenizer_input,
                "perturbed_prediction": int(after.output),
                "success": isinstance(found, results.SuccessfulAttackResult),
                "queries": found.num_queries,
                "words_perturbed": len(before.attacked_text.all_words_diff(last)),
            }
        if classifier.draws:
            again = classifier([last.tokenizer_input] * self.redraws).argmax(dim=-1)
            outcome["redraws_wrong"] = int((again != label).sum())
        return outcome


def _build(recipe: str, classifier: TextClassifier) -> "Attack":
    """Build the recipe's attack on a classifier, or raise an error that says what it lacks."""
    textattack = textattack_compat.load()
    try:
        search = getattr(textattack.attack_recipes, recipe).build(classifier)
    except Exception as error:
        # Each recipe downloads in its own way: sockets, archives, TensorFlow, flair; each fails differently.
        problem = _lacking(recipe, error)
    else:
        if not isinstance(search.goal_function, textattack.goal_functions.ClassificationGoalFunction):
            raise ValueError(f"recipe {recipe} attacks text generators, not classifiers")
        return search
    # Raised here: a traceback that lives on would hold the locks of TextAttack's downloads.
    raise nltk_resources.ResourceError(problem)


def _lacking(recipe: str, error: Exception) -> str:
    fetches = _FETCHES.get(recipe)
    needs = f"it fetches {fetches} when it is first used" if fetches else "something that it reads is missing"
    return f"recipe {recipe} cannot run on this machine: {needs} ({_one_line(error)})"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
