"""Scores -> what a person should look at."""
