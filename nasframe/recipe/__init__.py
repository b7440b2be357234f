"""Recipes: from YAML with places, over overrides, to a plan of which every part was checked."""
