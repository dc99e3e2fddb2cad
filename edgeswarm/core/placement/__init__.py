"""Which device runs which agent: `plan` places what has no good place, `rebalance` evens out, `TaskChooser` is for
tasks.  Pure functions over what `views` asks of devices and agents; the cell's own records fit.
"""

from edgeswarm.core.placement.balance import rebalance
from edgeswarm.core.placement.plan import Plan, PlannedMove, plan
from edgeswarm.core.placement.tasks import TaskChooser
from edgeswarm.core.placement.views import AgentLike, CapabilitiesLike, DeviceLike, NeedsLike, SpecLike

__all__ = [
    "AgentLike",
    "CapabilitiesLike",
    "DeviceLike",
    "NeedsLike",
    "Plan",
    "PlannedMove",
    "SpecLike",
    "TaskChooser",
    "plan",
    "rebalance",
]
