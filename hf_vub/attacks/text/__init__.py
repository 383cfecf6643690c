"""Attacks on texts through TextAttack: ``attack`` runs them, ``classifier`` answers queries without wasted tokens."""
