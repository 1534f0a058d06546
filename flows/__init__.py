"""flows tell the story: which stages run, in which order, and what becomes of the result."""
