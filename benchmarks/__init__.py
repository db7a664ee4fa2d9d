"""Speed and parity against peers, side by side in one run."""
