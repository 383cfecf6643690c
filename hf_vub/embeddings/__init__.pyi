from .extraction import Features, extract

__all__ = ["Features", "extract"]
