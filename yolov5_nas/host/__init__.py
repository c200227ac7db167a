"""YOLOv5 itself and its data sets."""
