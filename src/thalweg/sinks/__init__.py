"""Where scored flows go."""
