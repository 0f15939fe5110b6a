"""What differs between classification, detection and segmentation in training."""
