"""What is there: copies, sites, cost, outputs, and walks through a network."""
