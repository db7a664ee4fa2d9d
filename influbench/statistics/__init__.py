"""Numbers with their doubt: arrays and records in, estimates out."""
