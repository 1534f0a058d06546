"""The quantize stages: one config and stage function a method, the maths beside them."""
