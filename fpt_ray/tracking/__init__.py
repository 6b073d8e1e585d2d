"""MLflow: runs, server, what waits while the server is away."""
