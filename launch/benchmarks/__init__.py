"""What launch/bench.py measures: one module per command, and what they share."""
