"""Pure rules and types: no input, no output, no clock, no processes."""
