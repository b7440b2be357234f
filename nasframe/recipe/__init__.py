"""Recipes: from YAML text with files and overrides to a checked plan."""
