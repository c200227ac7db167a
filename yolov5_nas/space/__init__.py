"""The data core: a search space read from a model YAML, architectures, their compilation to stock YOLOv5. No torch."""
