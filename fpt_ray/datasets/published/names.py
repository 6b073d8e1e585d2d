"""How data sets and their splits are called on the command line."""

from typing import Literal

Name = Literal["ddr", "messidor2", "isic2016", "isic2018", "ddsm", "cmmd", "covid", "chncxr", "bccd"]
"""The eight of the paper's section 4.1 in its order, and one more."""
Split = Literal["official", "random", "patient"]
