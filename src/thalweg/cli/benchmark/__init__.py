"""`thalweg benchmark …`, a file for each command."""
