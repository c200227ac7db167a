"""NNI's engine, spaces and strategies."""
