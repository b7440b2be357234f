"""Stages: the verbs of a recipe and what they work on."""
