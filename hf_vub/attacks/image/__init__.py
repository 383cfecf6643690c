"""Attacks on images through foolbox and ART: ``attack`` runs them on a ``classifier`` of [0, 1] pixels."""
