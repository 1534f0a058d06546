"""Language models that write: their weights, their measures, the methods that make them smaller."""
