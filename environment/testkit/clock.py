"""Source code that makes the clock of a Python program wrong, when put at its beginning."""

#: Two days ahead.
CLOCK_AHEAD = """
import datetime, sys, time
days = 2 * 86400
real, right = time.time, datetime.datetime
time.time = lambda: real() + days
class Ahead(right):
    @classmethod
    def now(cls, tz=None):
        return right.now(tz) + datetime.timedelta(seconds=days)
    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)
datetime.datetime = Ahead
"""
