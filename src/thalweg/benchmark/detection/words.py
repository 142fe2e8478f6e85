"""What the detection report says beside its tables and pictures, for a reader who never saw one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WORDS: Final[Mapping[str, str]] = {
    "what": (
        "Each method learned how a network's flows usually run, without any label, and then rated other flows. The "
        "labels of the data sets were only used afterwards, to count. TPR is the share of attack flows that were "
        "flagged, FPR the share of benign flows that were flagged though nothing was wrong with them; both in "
        "percent here. Figures are means ± standard deviations over the seeds."
    ),
    "protocols": (
        "Every method gives each flow a number; where to draw the line is a second question. Columns marked with * "
        "drew it at the best place by the labels of the very flows that are judged. Nobody can do that on a network "
        "of their own. Columns named after a budget drew it from training flows alone: with a budget of 1 %, about "
        "1 % of benign flows should be flagged, and the FPR beside it says how many really were."
    ),
    "beside": (
        "TPR / FPR in percent. The published figures and those marked with * chose their threshold on the test "
        "labels. The published ones were measured on the v1 files; a row's name says which file ours were measured "
        "on, and if it is another one, the row shows a direction and no contest. The last column is the honest "
        "one."
    ),
    "by time": "by time: the first 40 % of the span is learned from, the rest judged",
    "at random": "at random: one half of the benign flows is learned from, all others are judged",
    "methods": (
        "Ordered by AUROC: the chance that an attack flow looks stranger than a benign one; 0.5 is guessing, below "
        "it the order is upside down. Average precision (AP) is the share of real alarms, averaged over all "
        "thresholds; guessing reaches the share of attacks. * chosen on test labels."
    ),
    "hosts": (
        "For people who look at machines and not at flows. A host's strangeness is how far its flows reach beyond "
        "the threshold, weighed by how many they are. It is alerted once, in the first five minutes in which its "
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
        "Choose a method below the picture. Blue are benign flows, orange attacks, each as a share of its kind, "
        "square-rooted so that few flows can be seen. What is far to the left is strange. The less the colours lie on "
        "each other, the better they can be told apart. First seed; each method has its own scale."
    ),
    "calibration": (
        "The model states for each flow how probable it is that the flow belongs there. On the dotted line, of all "
        "flows with a stated probability of 70 %, 70 % do. Below the line it is too sure."
    ),
    "ablations": (
        "The model learned again without one of its parts. A bar to the left: the part helped, and by how much; to "
        "the right: it did harm on that data set."
    ),
    "scenarios": (
        "The same under other conditions. A dot near the clean one means that the condition does not matter."
    ),
    "costs": (
        "The largest over the data sets, on one machine. Memory is the peak of the whole process, and includes what "
        "reading the data needed. Methods of one family run in one process, one after the other, and share a peak."
    ),
    "absent": "Put a file under its own name into the data folder and run the same command again: only its jobs run.",
}
"""By the part of the report they belong to; text."""
