"""Questions put to estimators."""
