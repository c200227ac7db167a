"""What people read: reports, pictures, TensorBoard, exported models, statistics."""
