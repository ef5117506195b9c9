"""Following an execution: a live view, or plain lines."""
