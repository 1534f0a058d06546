"""When a run begins and when it stops by itself: the greenest start within a window, budgets of energy and time."""
