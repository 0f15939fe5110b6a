"""Published checkpoints, brought to the names of `mobilenetv2.architecture.parameter_shapes`."""
