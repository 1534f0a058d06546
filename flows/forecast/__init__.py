"""What a run will leave, take and need, foretold from configs and shapes, without loading a model."""
