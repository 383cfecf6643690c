from .examples import write_examples
from .model_cards import model_card, write_model_card

__all__ = ["model_card", "write_examples", "write_model_card"]
