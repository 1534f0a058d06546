"""The parts of the energy meter; tasks/carbon.py puts them together."""
