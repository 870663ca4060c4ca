"""Train rankers of several tasks on declared inputs."""
