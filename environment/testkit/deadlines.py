"""How long tests wait for what the package promises, in seconds."""

#: Claims are old after 10 s, and a sweep comes every 12 s at most.
SWEPT_S = 60
#: After a kill -9: five seconds until it counts as dead, the sweep, and the runs themselves.
RESCUE_S = 25
