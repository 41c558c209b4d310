"""Deployment: the same rounds with clients on other machines, over gRPC with mutual TLS."""
