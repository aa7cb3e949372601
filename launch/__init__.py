"""The commands, recipes, DeepSpeed and cluster files."""
