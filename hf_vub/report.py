"""Everything that is rendered from result JSON and nothing else: model cards, tables, figures and the report."""

from .model_cards import model_card, write_model_card

__all__ = ["model_card", "write_model_card"]
