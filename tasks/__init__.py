"""tasks change a model: each stage is a config beside the plain function that runs it."""
