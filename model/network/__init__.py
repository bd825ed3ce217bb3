"""The transformer: configuration, layers, forward pass and checkpoints."""
