"""Labelled traffic of an invented network, with planted attacks: for the demo, for tests, for load.

sites -> who is there · services -> what is normal · traffic -> normal flows · attacks -> the planted ones
simulation -> all of it in order of time · dialects -> under other tools' column names
"""

from thalweg.synthetic.attacks import ATTACKS, Attack
from thalweg.synthetic.dialects import Dialect, as_dialect
from thalweg.synthetic.services import SERVICES
from thalweg.synthetic.simulation import BENIGN, SimulationConfig, simulate, simulate_stream
from thalweg.synthetic.sites import SiteName

__all__ = [
    "ATTACKS",
    "BENIGN",
    "SERVICES",
    "Attack",
    "Dialect",
    "SimulationConfig",
    "SiteName",
    "as_dialect",
    "simulate",
    "simulate_stream",
]
