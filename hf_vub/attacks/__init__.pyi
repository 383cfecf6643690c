from .image.attack import attack_image
from .masking import report_card
from .text.attack import attack_text, attack_text_heads, shared_heads, wrapper

__all__ = ["attack_image", "attack_text", "attack_text_heads", "report_card", "shared_heads", "wrapper"]
