"""Small general tools without any project imports."""
