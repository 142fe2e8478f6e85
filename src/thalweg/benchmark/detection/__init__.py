"""How well attacks are found: data sets x methods x seeds under two protocols."""

from thalweg.runtime.extras import need

# At once, and not when the first job of hours of them comes to it.
need("altair", "pyod", "sklearn", extra="benchmark")
