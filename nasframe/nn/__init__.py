"""Everything that touches tensors: sub-networks, their costs, and what is done to weights."""
