"""Following one execution: what is known of it, as a live view or as plain lines."""
