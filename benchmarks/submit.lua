-- What wrk sends: a submission with an API key; and what it says at the end, as one line of JSON.
wrk.method = "POST"
wrk.path = "/v1/tasks/app.tasks.llm.routing"
wrk.body = '{"payload": {"request": "Where is my refund?", "routes": ["billing", "shipping"]}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("API_KEY")

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'JSON{"requests": %d, "seconds": %.3f, "p50_ms": %.1f, "p99_ms": %.1f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
