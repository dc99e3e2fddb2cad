"""Runs this version of the bundle, whatever PREFIX/current names: what a hand-over goes back to."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from edgeswarm.__main__ import main

main()
