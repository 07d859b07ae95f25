"""Pictures: draws and results in, matplotlib figures out.

Only counts and quantiles are computed here. Pictures of draws show uncertainty by two masses, q = 50 % and 90 %:

    band, bar       from the quantile (1 - q) / 2 of the draws to the quantile (1 + q) / 2,   q = .5, .9
    contour         the level of a 2-D histogram above which a share q of the draws lies

Every function but `bands` returns a free-standing `matplotlib.figure.Figure`. `pyplot` and its global state are never
touched: no window opens, no memory leaks, and no display is needed. A notebook shows the figure, `save` writes it, and
a report takes it. The colors are those of Okabe and Ito, for color-blind readers. NaN stands for a missing value and is
left out.
"""

from retrodict.plots._calibration import MAX_PANELS as MAX_PANELS
from retrodict.plots._calibration import coverage as coverage
from retrodict.plots._calibration import ecdf as ecdf
from retrodict.plots._calibration import lc2st as lc2st
from retrodict.plots._calibration import predictive as predictive
from retrodict.plots._calibration import ranks as ranks
from retrodict.plots._calibration import tarp as tarp
from retrodict.plots._corner import MAX_CORNER_ELEMENTS as MAX_CORNER_ELEMENTS
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
from retrodict.plots._style import PALETTE as PALETTE
from retrodict.plots._style import VERMILION as VERMILION
from retrodict.plots._style import save as save


MANY, MOST = MAX_PANELS, MAX_CORNER_ELEMENTS  # earlier names
