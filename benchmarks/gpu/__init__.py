"""What influbench does on one GPU, measured in one command: ``python -m benchmarks.gpu``."""
