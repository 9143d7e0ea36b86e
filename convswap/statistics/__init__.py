"""What layers see: moments of inputs, curvature of outputs."""
