"""TextAttack recipes by name, and what one makes of a text: a record, a reason to skip it, or what is missing.

| name | adversary | reads |
|---|---|---|
| ``deepwordbug``, DeepWordBugGao2018 | typing errors in the words that matter most (Gao et al. 2018) | stopwords |
| ``pwws``, PWWSRen2019 | synonyms, by saliency and effect (Ren et al. 2019) | stopwords, WordNet |
| any other class name | of TextAttack, against classifiers | often word vectors or models from the network |
"""

import time
from typing import Any

from . import nltk_resources, textattack_compat
from .classifier import TextClassifier

SHORT_NAMES = {"deepwordbug": "DeepWordBugGao2018", "pwws": "PWWSRen2019"}

# What other recipes fetch when they are built or first used, for the sentence that says why one cannot run.
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
    """The class name of a recipe, from that or from a short name in any case.

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
        redraws: fresh draws over which the final text of a random predictor is scored again.
        query_budget: queries per text after which the attack gives up; None for no limit.
        max_words: longer texts are skipped.

    Raises:
        ValueError: the recipe does not attack classifiers.
        nltk_resources.ResourceError: the recipe reads something that is not on this machine.
    """

    def __init__(
        self,
        recipe: str,
        classifier: TextClassifier,
        redraws: int = 20,
        query_budget: int | None = None,
        max_words: int = 4000,
    ):
        self.recipe = recipe
        self.redraws = redraws
        self.max_words = max_words
        self._textattack = textattack_compat.load()
        self._search = _build(recipe, classifier)
        goal = self._search.goal_function
        goal.batch_size = 2**31  # all candidates at once: the classifier makes its own batches
        if query_budget is not None:
            goal.query_budget = query_budget
        if classifier.draws:
            goal.use_cache = False  # it is keyed by text, and would freeze one draw per text
        self._forget = self._search.clear_cache
        self._asks_for_all = False
        if self._search.use_transformation_cache:  # what a deterministic recipe makes of a text is every head's
            self._search.clear_cache = goal.clear_cache
            method = self._search.search_method
            method.get_transformations = self._transformations
            weighted = getattr(method, "wir_method", "") == "weighted-saliency"
            self._asks_for_all = weighted and query_budget is None and not classifier.draws

    def clear(self) -> None:
        """Forget what the recipe made of the last text: heads attacked from here on are given another one."""
        self._forget()

    def attack(self, classifier: TextClassifier, text: str, label: int) -> dict[str, Any]:
        """Attack one text.

        Returns:
            Its record: ``status`` ("attacked", "misclassified" or "skipped: reason"), ``original_text`` and
            ``perturbed_text``, ``prediction`` and ``perturbed_prediction``, ``success``, ``queries``, ``words`` and
            ``words_perturbed``; for a random predictor ``redraws_wrong``, the fresh draws that misread the last text.

        Raises:
            nltk_resources.ResourceError: the recipe reads something that is not on this machine.
        """
        began = time.perf_counter()
        record: dict[str, Any] = {"status": "", "original_text": text, "perturbed_text": None}
        words = len(text.split())
        if words > self.max_words:
            record["status"] = f"skipped: {words} words are more than max_words={self.max_words}"
        elif not (example := self._textattack.shared.AttackedText(text)).words:
            record["status"] = "skipped: the text has no words"
        else:
            self._search.goal_function.model = classifier
            record.update(self._attacked(classifier, example, label))
        return {**record, "seconds": time.perf_counter() - began}

    def _attacked(self, classifier: TextClassifier, example: Any, label: int) -> dict[str, Any]:
        try:
            if self._asks_for_all:
                self._look_ahead(classifier, example, label)
            return self._outcome(classifier, self._search.attack(example, label), label)
        except (ValueError, IndexError, KeyError, AssertionError, ArithmeticError) as error:
            # TextAttack stumbles over some texts in many ways; whatever it says is a reason to pass over one text.
            return {"status": f"skipped: {_one_line(error)}"}
        except (ImportError, OSError, LookupError) as error:
            problem = _lacking(self.recipe, error)
        finally:
            self._search.clear_cache()
        raise nltk_resources.ResourceError(problem)

    def _transformations(self, text: Any, original_text: Any = None, **options: Any) -> Any:
        """TextAttack's, with lists as tuples: it remembers what it can hash only."""
        hashable = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return self._search.get_transformations(text, original_text, **hashable)

    def _look_ahead(self, classifier: TextClassifier, example: Any, label: int) -> None:
        """Compute in full batches what PWWS asks for word by word: the features of all single substitutions."""
        if int(classifier([example.tokenizer_input]).argmax()) == label:
            _, words = self._search.get_indices_to_order(example)
            found = (self._transformations(example, example, indices_to_modify=[word]) for word in words)
            texts = [candidate.tokenizer_input for candidates in found for candidate in candidates]
            if texts:
                classifier(texts)

    def _outcome(self, classifier: TextClassifier, found: Any, label: int) -> dict[str, Any]:
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


def _build(recipe: str, classifier: TextClassifier) -> Any:
    """The recipe's attack on a classifier, or a sentence on what it lacks."""
    textattack = textattack_compat.load()
    try:
        search = getattr(textattack.attack_recipes, recipe).build(classifier)
    except Exception as error:
        # A recipe fetches what it needs in its own way: sockets, archives, TensorFlow, flair, each fails differently.
        problem = _lacking(recipe, error)
    else:
        if not isinstance(search.goal_function, textattack.goal_functions.ClassificationGoalFunction):
            raise ValueError(f"recipe {recipe} attacks text generators, not classifiers")
        return search
    # Raised here: a traceback that lives on would hold the locks of TextAttack's downloads.
    raise nltk_resources.ResourceError(problem)


def _lacking(recipe: str, error: Exception) -> str:
    fetches = _FETCHES.get(recipe)
    needs = f"it fetches {fetches} when it is first used" if fetches else "something that it reads is not here"
    return f"recipe {recipe} cannot run on this machine: {needs} ({_one_line(error)})"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
