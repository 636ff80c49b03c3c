"""What to look at in a model and its optimizer; nothing here changes either."""

from steepest.diagnostics._alarms import MonitorWarning as MonitorWarning
from steepest.diagnostics.constraint import ConstraintReport as ConstraintReport
from steepest.diagnostics.constraint import ConstraintRow as ConstraintRow
from steepest.diagnostics.constraint import constraint_report as constraint_report
from steepest.diagnostics.directions import DIRECTIONS as DIRECTIONS
from steepest.diagnostics.directions import adam_step as adam_step
from steepest.diagnostics.directions import gradient_step as gradient_step
from steepest.diagnostics.judge import compare as compare
from steepest.diagnostics.monitor import Monitor as Monitor
from steepest.diagnostics.ranks import Spectrum as Spectrum
from steepest.diagnostics.ranks import effective_rank as effective_rank
from steepest.diagnostics.ranks import nuclear_rank as nuclear_rank
from steepest.diagnostics.ranks import spectrum as spectrum
from steepest.diagnostics.ranks import stable_rank as stable_rank
from steepest.diagnostics.ranks import svd_entropy as svd_entropy
from steepest.diagnostics.sharpness import Along as Along
from steepest.diagnostics.sharpness import DirectionReport as DirectionReport
from steepest.diagnostics.sharpness import along as along
from steepest.diagnostics.sharpness import compare_directions as compare_directions
from steepest.diagnostics.sharpness import directional_sharpness as directional_sharpness
from steepest.diagnostics.smoothness import Smoothness as Smoothness
from steepest.diagnostics.smoothness import smoothness as smoothness
from steepest.diagnostics.spectra import ConstraintSpectrum as ConstraintSpectrum
from steepest.diagnostics.spectra import constraint_spectra as constraint_spectra
from steepest.diagnostics.verdict import LayerVerdict as LayerVerdict
from steepest.diagnostics.verdict import Verdict as Verdict
