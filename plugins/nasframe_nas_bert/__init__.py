"""NAS-BERT (Xu et al. 2021, arXiv 2105.14444), and Puzzle (Bercovich et al. 2024, arXiv 2411.19146) with its parts."""

from nasframe import hookimpl

HERE = "nasframe_nas_bert"
