"""Labelled traffic of invented networks with planted attacks, for the demo, tests and load.

sites -> hosts and addresses · services -> kinds of normal traffic · traffic -> normal flows · attacks -> attack flows
simulation -> all flows in order of time · dialects -> the same under other tools' column names
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
