"""How many seconds tests wait for what the package promises."""

#: Claims are old after 10 s, and maintenance runs every 12 s at most.
SWEPT_S = 60
#: After a kill -9: five seconds until the consumer counts as dead, maintenance, and the runs themselves.
RESCUE_S = 25
