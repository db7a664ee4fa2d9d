"""What several estimators are made of."""
