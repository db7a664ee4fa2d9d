"""What methods are made of: gradients, one optimizer step, directional derivatives, sketches."""
