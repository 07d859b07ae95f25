"""Pictures: results in, matplotlib figures out.

Nothing is computed here but counts and quantiles. Pictures of draws say "how sure" in two masses, 50 % and 90 %:

    band, bar       from the quantile (1 - q) / 2 of the draws to the quantile (1 + q) / 2,   q = .5, .9
    contour         the level of a 2-D histogram above which a share q of the draws lies

A figure is a free-standing `matplotlib.figure.Figure`: `pyplot` and its global state are never touched, so nothing pops
up, nothing leaks and no display is needed; show it in a notebook, `save` it, or hand it to a report. Colors are those
of Okabe and Ito, which color-blind readers can tell apart. NaN means "not there" and is left out.
"""

from retrodict.plots._calibration import MANY as MANY
from retrodict.plots._calibration import coverage as coverage
from retrodict.plots._calibration import ecdf as ecdf
from retrodict.plots._calibration import lc2st as lc2st
from retrodict.plots._calibration import ranks as ranks
from retrodict.plots._calibration import tarp as tarp
from retrodict.plots._corner import corner as corner
from retrodict.plots._series import bands as bands
from retrodict.plots._series import forecast as forecast
from retrodict.plots._series import losses as losses
from retrodict.plots._series import missing as missing
from retrodict.plots._series import overlay as overlay
from retrodict.plots._series import scattered as scattered
from retrodict.plots._series import traces as traces
from retrodict.plots._style import BLUE as BLUE
from retrodict.plots._style import GREEN as GREEN
from retrodict.plots._style import INK as INK
from retrodict.plots._style import MOST as MOST
from retrodict.plots._style import PALETTE as PALETTE
from retrodict.plots._style import VERMILION as VERMILION
from retrodict.plots._style import save as save
