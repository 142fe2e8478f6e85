"""How the autoencoder learns: windows with noise among the flows, the loss, the loop, its state on disk."""
