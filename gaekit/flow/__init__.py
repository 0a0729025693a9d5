"""The mathematics of noising processes, on callables and tensors alone: paths, objectives, guidance and fields."""
