"""Judge networks and compare them."""
