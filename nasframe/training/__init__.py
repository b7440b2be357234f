"""Training: what loops are made of."""
