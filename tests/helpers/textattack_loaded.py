"""Imports TextAttack as hf_vub does, for a server of processes that are to have it from the start."""

import contextlib

from hf_vub.attacks.text import nltk_resources, textattack_compat

with contextlib.suppress(ImportError, nltk_resources.ResourceError):  # the tests that need it say so
    textattack_compat.load()
