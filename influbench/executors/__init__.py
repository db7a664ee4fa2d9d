"""Where runs and shares of stages go."""
