"""What a finished run is still good for: models for new constraints, and tables of architectures."""
