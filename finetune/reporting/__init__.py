"""Reports of finished runs: predictions, statistics, charts, pages, and what wandb is told."""
