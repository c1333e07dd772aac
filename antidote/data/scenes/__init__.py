"""The project's own pictures: scenes drawn from a seed."""
