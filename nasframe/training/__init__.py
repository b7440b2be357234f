"""Training: the parts that training loops are made of."""
