"""Trees of features: `Hierarchy`, and how labels, frames and dicts are read as one."""
