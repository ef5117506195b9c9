"""The composition root: builds every program's objects from settings. Nothing is connected yet."""
