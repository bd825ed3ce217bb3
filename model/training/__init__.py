"""The post-training recipe: data, losses, trainer, and the procedural scenes it can be tried on."""
