"""Child processes of runners, with a protocol of JSON lines."""
