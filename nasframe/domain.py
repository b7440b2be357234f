"""Domains of knobs: the import path that documents name."""

from nasframe.search.domain import REJECTIONS, SCAN, Choices, DomainError

__all__ = [
    "REJECTIONS",
    "SCAN",
    "Choices",
    "DomainError",
]
