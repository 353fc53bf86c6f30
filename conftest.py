"""The fixtures of every suite: those of the application and those of the package."""

pytest_plugins = ["environment.testkit.fixtures", "environment.testkit.probe_fixtures"]
