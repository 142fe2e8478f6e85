"""The explanations in the detection report, for a reader who has never seen one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WORDS: Final[Mapping[str, str]] = {
    "what": (
        "Each method learned how a network's flows usually run, without any label, and then rated other flows. The "
        "labels of the data sets were only used afterwards, to count. TPR is the share of attack flows that were "
        "flagged, FPR the share of benign flows that were wrongly flagged; both in "
        "percent here. Figures are means ± standard deviations over the seeds."
    ),
    "protocols": (
        "Every method gives each flow a score; the threshold above which flows are flagged is chosen separately. In "
        "columns marked with *, it is the one that is best by the labels of the very flows that are judged, which "
        "nobody can know on their own network. In columns named after a budget, it is set from training flows alone: "
        "with a budget of 1 %, about 1 % of benign flows should be flagged, and the FPR is the share that was."
    ),
    "beside": (
        "TPR / FPR in percent. The published figures and those marked with * chose their threshold on the test "
        "labels. The published ones were measured on the v1 files, ours on the file that the row names; if that is "
        "another version, the two can only be compared roughly. The last column uses no test label."
    ),
    "by time": "by time: the first 40 % of the span is learned from, the rest judged",
    "at random": "at random: one half of the benign flows is learned from, all others are judged",
    "methods": (
        "Ordered by AUROC: the chance that an attack flow looks stranger than a benign one; 0.5 is guessing, "
        "and below 0.5 the order is inverted. Average precision (AP) is the share of real alarms, averaged over all "
        "thresholds; guessing reaches the share of attacks. * chosen on test labels."
    ),
    "hosts": (
        "For people who investigate hosts and not single flows. A host's strangeness is how far its flows reach beyond "
        "the threshold, weighted by how many they are. It is alerted once, in the first five minutes in which its "
        "strangeness is above a limit that would have alerted one host an hour in the training period (one at least). "
        "Minutes count from the "
        "start of the judged period, which may be well before the attack's."
    ),
    "curves": (
        "Left: each point of a line is a possible threshold, with the attack flows it finds (upwards) and the benign "
        "flows it falsely flags (to the right). The scale is logarithmic, since the left end is where people work: "
        "at 1 % of a million flows there are 10,000 false alarms. Right: the share of alarms that are real, as more "
        "attacks are found; high and long is good. Both show the first seed."
    ),
    "attacks": (
        "How much of each kind of attack is found if 1 % of the benign flows are flagged: dark is much. The "
        "largest kinds are on the left. Means over the seeds."
    ),
    "histogram": (
        "Choose a method below the chart. Blue are benign flows, orange attacks, each as a share of its kind, "
        "square-rooted so that few flows can be seen. Strange flows are on the left. The less the colours overlap, "
        "the better the method separates them. First seed; each method has its own scale."
    ),
    "calibration": (
        "The model states for each flow how probable it is that the flow belongs there. On the dotted line, of all "
        "flows with a stated probability of 70 %, 70 % do. Below the line, the model is overconfident."
    ),
    "ablations": (
        "The model was trained again without one of its parts. A bar to the left shows how much the part helped on "
        "that data set, a bar to the right how much it harmed."
    ),
    "scenarios": (
        "The same methods under other conditions. A dot near the clean one means that the condition does not matter."
    ),
    "costs": (
        "The largest over the data sets, on one machine. Memory is the peak of the whole process, and includes what "
        "reading the data needed. Methods of one family run in one process, one after the other, and share a peak."
    ),
    "absent": "Put a file under its own name into the data folder and run the same command again: only its jobs run.",
}
"""The explanations, by part of the report."""
