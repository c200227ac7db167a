"""What an architecture costs: parameters, GFLOPs, latency."""
