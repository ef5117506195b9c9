"""Working directories: saved in the object store, and restored from it."""
