"""Change the network: fitted layers in place of convolutions."""
