"""Every bound of the runtime: NAME_UNIT = value, and the reason for the number.

By area, each a module of plain numbers; read them from here: `from edgeswarm.limits import NAME`.  Imports nothing
else.  A bound that only one profile wants belongs into `profiles/`, not here.
"""

from edgeswarm.limits.agent import *
from edgeswarm.limits.care import *
from edgeswarm.limits.cell import *
from edgeswarm.limits.delegates import *
from edgeswarm.limits.fleet import *
from edgeswarm.limits.mqtt import *
from edgeswarm.limits.onnx import *
from edgeswarm.limits.population import *
from edgeswarm.limits.raft import *
from edgeswarm.limits.resources import *
from edgeswarm.limits.tflite import *
from edgeswarm.limits.units import *
from edgeswarm.limits.wire import *
