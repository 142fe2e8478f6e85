"""The published graph autoencoder, as a preset and a rival."""
