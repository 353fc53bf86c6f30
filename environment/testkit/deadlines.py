"""How many seconds tests wait for what the package promises: several times what it takes on an idle machine."""

#: Claims are old after 10 s, and maintenance runs every 12 s at most.
SWEPT_S = 60
#: After a kill -9: five seconds until the consumer counts as dead, 12 s at most until maintenance, and the runs.
RESCUE_S = 60
