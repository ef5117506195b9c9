"""What all commands share: their context, arguments, options and output."""
