"""What the four dashboards show."""

from docs.dashboards import Dashboard
from docs.panels import freshness, learning, quality, serving

DASHBOARDS: tuple[Dashboard, ...] = (
    freshness.DASHBOARD,
    serving.DASHBOARD,
    learning.DASHBOARD,
    quality.DASHBOARD,
)
