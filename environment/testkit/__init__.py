"""What tests, the fault suite and benchmarks stand on: servers, databases, workers, programs, proxies."""
