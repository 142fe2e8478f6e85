"""How far a window's flows are from those the model learned from, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt

from thalweg.detect.profile import AMOUNTS, ENDS, TrafficProfile, floored, thinned, unseen_ends
from thalweg.tables import Flows

Level = Literal["too few flows to tell", "as in training", "somewhat different", "very different"]

LEAST_FLOWS: Final = 50
"""A window with fewer flows is not judged."""
VERY: Final = 2.5
""""Very" begins at so many times the limit of "somewhat": by custom 0.25 and 0.1."""

_PLAIN: Final[Mapping[str, str]] = {
    "fwd_bytes": "bytes sent",
    "bwd_bytes": "bytes received",
    "duration_ms": "durations",
    "fwd_packets": "packets sent",
    "bwd_packets": "packets received",
    "dst_port": "destination ports",
    "protocol": "protocols",
}
_MOST_NAMED: Final = 3


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How far one window is from the training flows; the larger, the farther."""

    level: Level
    """The judgement of the window."""
    num_flows: int
    """How many flows the window has."""
    start: datetime | None
    """The earliest start in the window, or None if its flows carry no time."""
    end: datetime | None
    """The latest start in the window, or None if its flows carry no time."""
    psi: Mapping[str, float]
    """The population stability index of each attribute, less what chance gives."""
    unseen: Mapping[str, float]
    """The share of flows whose `src_addr`, `dst_addr` no training flow has."""
    usually_unseen: Mapping[str, float]
    """The same share among the held-out flows."""
    mean_logit: float
    """The mean logit of the window's flows."""
    shift: float
    """How far the mean logit is from that of the held-out flows, in their standard deviations; negative is stranger."""
    strength: Mapping[str, float]
    """Each measure over its limit; above 1 is different, above 2.5 very."""
    moved: tuple[str, ...]
    """A phrase for each measure above its limit, the farthest first."""

    @property
    def is_different(self) -> bool:
        """Whether it is somewhat or very different."""
        return bool(self.moved)

    @property
    def most(self) -> float:
        """The largest strength."""
        return max(self.strength.values(), default=0.0)

    def words(self) -> str:
        """Describe the drift in a sentence or two, what moved most first."""
        if not self.moved:
            return self.level if self.level == "too few flows to tell" else "as in the training flows"
        more = len(self.moved) - _MOST_NAMED
        rest = f"; and {more} more" if more > 0 else ""
        named = "; ".join(self.moved[:_MOST_NAMED])
        return f"{self.level} from the training flows: {named}{rest}. Fit again if this is the new normal."

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; times in ISO 8601."""
        return {
            "level": self.level,
            "rows": self.num_flows,
            "start": None if self.start is None else self.start.isoformat(),
            "end": None if self.end is None else self.end.isoformat(),
            "psi": {name: round(value, 4) for name, value in self.psi.items()},
            "unseen": {name: round(value, 4) for name, value in self.unseen.items()},
            "usually_unseen": {name: round(value, 4) for name, value in self.usually_unseen.items()},
            "mean_logit": round(self.mean_logit, 4),
            "shift": round(self.shift, 4),
            "words": self.words(),
        }


def measure(profile: TrafficProfile, flows: Flows, logit: npt.NDArray[np.float32]) -> Drift:
    """Measure how far one window is from the training flows.

    It uses PSI and not Kolmogorov–Smirnov because PSI treats amounts, ports and hosts alike, copes with single frequent
    values, and has limits that people know. Limits grow if windows are small or the training flows vary by
    themselves: see `TrafficProfile.limit`. An attribute that the window or the profile lacks is not measured.

    flows: E flows of one window, of which 20,000 at most are measured; logit: (E,) float32.
    """
    num, (few, rated) = len(flows), thinned(flows, logit)
    count = len(few)
    psi: dict[str, float] = {}
    unseen: dict[str, float] = {}
    moves: dict[str, str] = {}
    strength: dict[str, float] = {}
    for name, bins in profile.bins.items():
        if name not in few.frame.columns:
            continue
        there = bins.counts(few.frame[name])
        psi[name] = float(profile.attribute_psi(name, there, count))
        strength[name] = psi[name] / profile.limit(name, num, count)
        moves[name] = f"{_how(name, floored(there), floored(bins.count))} (PSI {psi[name]:.2f})"
    usual = {end: profile.num_unseen[end] / max(profile.num_flows, 1) for end in ENDS}
    new = unseen_ends(few, profile.hosts)
    for end, verb in zip(ENDS, ("come from", "go to"), strict=True):
        num_new = new[end].sum(keepdims=True)
        unseen[end] = float(num_new[0]) / max(count, 1)
        strength[end] = float(profile.unseen_psi(end, num_new, count)[0]) / profile.limit(end, num, count)
        moves[end] = f"{_percent(unseen[end])} of flows {verb} hosts never seen (usually {_percent(usual[end])})"
    mean = float(rated.mean(dtype=np.float64)) if count else profile.logit_mean
    shift = (mean - profile.logit_mean) / profile.logit_spread
    strength["logit"] = float(profile.logit_psi(np.asarray([mean]), count)[0]) / profile.limit("logit", num, count)
    moves["logit"] = f"flows look stranger on the whole (mean logit {mean:.1f}, usually {profile.logit_mean:.1f})"
    start, end_time = _span(flows)
    judged = num >= LEAST_FLOWS
    most = max(strength.values())
    level: Level = "very different" if most > VERY else "somewhat different" if most > 1 else "as in training"
    farthest = sorted((name for name in strength if strength[name] > 1), key=lambda name: -strength[name])
    return Drift(
        level=level if judged else "too few flows to tell",
        num_flows=num,
        start=start,
        end=end_time,
        psi=psi,
        unseen=unseen,
        usually_unseen=usual,
        mean_logit=mean,
        shift=shift,
        strength=strength,
        moved=tuple(moves[name] for name in farthest) if judged else (),
    )


def _how(name: str, now: npt.NDArray[np.float64], usual: npt.NDArray[np.float64]) -> str:
    """Describe how an attribute's shares differ. now, usual: (B,), the last for flows without a value."""
    plain = _PLAIN[name]
    moved = (now - usual) * np.log(now / usual)
    if moved[-1] > 0.5 * moved.sum():
        rarely = "missing" if now[-1] > usual[-1] else "given"
        return f"{plain} are {rarely} more often"
    if name not in AMOUNTS:
        return f"{plain} are other ones"
    rise = float(((now - usual)[:-1] * np.arange(len(now) - 1)).sum()) / max(len(now) - 2, 1)
    if abs(rise) < 0.05:
        return f"{plain} are spread differently"
    return f"{plain} are {'larger' if rise > 0 else 'smaller'}".replace("durations are larger", "durations are longer")


def _span(flows: Flows) -> tuple[datetime | None, datetime | None]:
    if "start" not in flows.frame.columns:
        return None, None
    low, high = flows.frame["start"].min(), flows.frame["start"].max()
    return low if isinstance(low, datetime) else None, high if isinstance(high, datetime) else None


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


@final
@dataclass(slots=True, eq=False)
class DriftRecord:
    """The drift of each window of one run."""

    windows: list[Drift] = field(default_factory=list)

    def add(self, drift: Drift) -> None:
        """Add the next window."""
        self.windows.append(drift)

    def words(self) -> str | None:
        """Describe how many windows differ and how the worst one does; None if none differs."""
        different = [w for w in self.windows if w.is_different]
        if not different:
            return None
        worst = max(different, key=lambda w: w.most)
        if len(self.windows) == 1:
            return f"these flows are {worst.words()}"
        when = "" if worst.start is None else f", which starts {worst.start:%Y-%m-%d %H:%M:%S},"
        num = self.windows.index(worst) + 1
        verb = "is" if len(different) == 1 else "are"
        return (
            f"{len(different):,} of {len(self.windows):,} windows {verb} different from the training flows. "
            f"Window {num:,}{when} is {worst.words()}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "num_different": sum(w.is_different for w in self.windows),
            "words": self.words(),
            "windows": [w.as_dict() for w in self.windows],
        }
