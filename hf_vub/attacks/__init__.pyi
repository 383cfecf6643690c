from .cards import report_card
from .image.attack import attack_image
from .text.attack import attack_text, attack_text_heads, wrapper
from .text.heads import shared_heads

__all__ = ["attack_image", "attack_text", "attack_text_heads", "report_card", "shared_heads", "wrapper"]
