"""The pure rules of Celeriac: no input, no output, no clock."""
