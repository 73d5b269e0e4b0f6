"""How a model learns, apart from any signal: its spectrum, tangent kernel, speed and gradients."""
