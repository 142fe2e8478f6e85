"""How well attacks are found: data sets x methods x seeds under two protocols."""
