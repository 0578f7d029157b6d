"""The commands of ``python -m mlrops``."""
