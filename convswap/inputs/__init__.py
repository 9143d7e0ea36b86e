"""What goes in: networks by name or file, their weights, images."""
