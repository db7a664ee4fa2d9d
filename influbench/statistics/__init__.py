"""Numbers with their doubt: bootstrap, agreement, outcomes."""
